"""Learning-rate schedules: the rates of weights and biases at each step."""

import math
from typing import NamedTuple

from ml_collections import ConfigDict, FrozenConfigDict


class ScheduleState(NamedTuple):
  """What the plateau rule remembers between evaluations; part of every checkpoint.

  Attributes:
    best_error: lowest validation top-1 error so far, in per cent.
    bad_epochs: evaluations since then without improvement.
    drops: how often the rate has been divided.
  """

  best_error: float = math.inf
  bad_epochs: int = 0
  drops: int = 0


def batch_factor(config: ConfigDict | FrozenConfigDict, epoch: float = math.inf) -> float:
  """By how much both rates are multiplied at `epoch` for the batch of `config` (a whole config).

  "One weird trick" (arXiv 1404.5997, section 5) trains K workers on K times 128 images a step. The variance
  of the gradient asks for rates sqrt(K) times as high; K times as high is what its author found to work
  best, with decay and momentum as they were. Over the first `optim.warmup` epochs the factor rises from 1,
  as arXiv 1706.02677 does.
  """
  scaling = config.optim.scaling
  rule = scaling.rule
  if rule == 'auto':
    rule = 'linear' if config.parallelism == 'owt' else 'none'
  larger = config.train.batch_size / scaling.batch
  factor = {'linear': larger, 'sqrt': math.sqrt(larger), 'none': 1.0}[rule]
  risen = min(1.0, epoch / config.optim.warmup) if config.optim.warmup else 1.0
  return 1 + (factor - 1) * risen


def _dexp_factor(factor: float, levels: int, progress: float) -> float:
  """The original's discretised exponential: `levels` equal parts, falling by `factor` in all.

  At a boundary the old rate still holds (O, src/lr.cu): with 4 levels, progress 0.25 is in the first.
  """
  level = min(levels - 1, max(0, math.ceil(progress * levels) - 1))
  return factor ** (-level / (levels - 1))


def rates(
  config: ConfigDict | FrozenConfigDict,
  step: int,
  epoch: float,
  progress: float,
  state: ScheduleState,
) -> tuple[float, float]:
  """The rates of weights and of biases at a step, before any factor of a single layer.

  Args:
    config: `config.optim`.
    step: steps done.
    epoch: epochs done, fractional.
    progress: share of the whole run done, 0 ... 1.
    state: of the plateau rule.
  """
  if config.schedule == 'constant':
    factors = 1.0, 1.0
  elif config.schedule == 'plateau':
    factors = config.factor**state.drops, config.bias_factor**state.drops
  elif config.schedule == 'dexp':
    d = config.dexp
    factors = (
      _dexp_factor(d.factor, d.levels, progress),
      _dexp_factor(d.bias_factor, d.bias_levels, progress),
    )
  else:
    now = epoch if config.unit == 'epoch' else step
    passed = sum(now >= boundary for boundary in config.boundaries)
    factors = config.factor**passed, config.bias_factor**passed
  return config.rate * factors[0], config.bias_rate * factors[1]


def after_evaluation(
  config: ConfigDict | FrozenConfigDict, state: ScheduleState, error: float
) -> ScheduleState:
  """The paper's rule: divide the rate when the validation error stops improving.

  `plateau.patience` evaluations in a row without an improvement by more than `plateau.min_delta`
  points drop the rate; `plateau.drops` is the most often that may happen (three times in P).
  """
  if error < state.best_error - config.plateau.min_delta:
    return state._replace(best_error=error, bad_epochs=0)
  bad = state.bad_epochs + 1
  if bad < config.plateau.patience or state.drops >= config.plateau.drops:
    return state._replace(bad_epochs=bad)
  return state._replace(bad_epochs=0, drops=state.drops + 1)


def total_steps(config: ConfigDict | FrozenConfigDict, num_train: int) -> int:
  """Steps of the whole run over `num_train` images: `train.steps`, else enough for `train.epochs`."""
  examples = config.train.epochs * num_train
  return config.train.steps or max(1, math.ceil(examples / config.train.batch_size))
