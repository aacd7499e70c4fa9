"""Learning-rate schedules: the rates of weights and of biases at each step, and the length of a run."""

import math
from typing import NamedTuple

from ml_collections import ConfigDict, FrozenConfigDict


class ScheduleState(NamedTuple):
  """State of the plateau rule between evaluations; stored in every checkpoint.

  Attributes:
    best_error: lowest validation top-1 error so far, in per cent.
    bad_epochs: number of evaluations since then, none of which improved it.
    drops: number of times that the rate has been divided.
  """

  best_error: float = math.inf
  bad_epochs: int = 0
  drops: int = 0


def batch_factor(config: ConfigDict | FrozenConfigDict, epoch: float = math.inf) -> float:
  """Returns the factor by which both rates are multiplied because of the batch size.

  "One weird trick" (arXiv 1404.5997, section 5) trains K workers on K times 128 images a step. The variance
  of the gradient suggests rates sqrt(K) times as high; its author found that K times as high works best, with
  decay and momentum unchanged. Over the first `optim.warmup` epochs the factor rises linearly from 1, as in
  arXiv 1706.02677.

  Args:
    config: the whole config; `optim.scaling`, `optim.warmup`, `parallelism` and `train.batch_size` are used.
    epoch: number of complete epochs, with fraction; by default after the warm-up.
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
  """Returns the factor of the original code's schedule `dexp`: exponential, in `levels` equal parts.

  The rate falls from part to part, by `factor` in total. At a boundary the old rate still holds (O, the
  original code: src/lr.cu): with 4 levels, progress 0.25 belongs to the first.
  """
  # Rounding errors, of about 1e-16, must not carry a boundary into the next part: 0.28 * 25 > 7.
  parts = progress * levels * (1 - 1e-12)
  level = min(levels - 1, max(0, math.ceil(parts) - 1))
  return factor ** (-level / (levels - 1))


def rates(
  config: ConfigDict | FrozenConfigDict,
  step: int,
  epoch: float,
  progress: float,
  state: ScheduleState,
) -> tuple[float, float]:
  """Returns the rates of weights and of biases at a step, before any factor of a single layer.

  Args:
    config: `config.optim`.
    step: number of complete steps.
    epoch: number of complete epochs, with fraction.
    progress: complete share of the whole run, from 0 to 1.
    state: state of the plateau rule.
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
  """Returns the state after an evaluation: the rate is divided when the validation error stops improving.

  This is the rule of paper section 5. The rate drops after `plateau.patience` evaluations in a row that do
  not improve the best error by more than `plateau.min_delta` percentage points, and at most `plateau.drops`
  times (three times in the paper).

  Args:
    config: `config.optim`.
    state: the state before the evaluation.
    error: validation top-1 error, in per cent.
  """
  if error < state.best_error - config.plateau.min_delta:
    return state._replace(best_error=error, bad_epochs=0)
  bad = state.bad_epochs + 1
  if bad < config.plateau.patience or state.drops >= config.plateau.drops:
    return state._replace(bad_epochs=bad)
  return state._replace(bad_epochs=0, drops=state.drops + 1)


def total_steps(config: ConfigDict | FrozenConfigDict, num_train: int) -> int:
  """Returns the number of steps of the run: `train.steps` if set, else enough for `train.epochs` epochs.

  Args:
    config: the whole config.
    num_train: number of training images.
  """
  # Rounded, because 1.1 * 100 is a little more than 110.
  steps = round(config.train.epochs * num_train / config.train.batch_size, 6)
  return config.train.steps or max(1, math.ceil(steps))
