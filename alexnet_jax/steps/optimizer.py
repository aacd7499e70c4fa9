"""The paper's SGD, its rate schedules, and the late freezing of conv1 that the paper leaves out.

    v <- momentum * v - decay * rate * w - rate * gradient;    w <- w + v        (paper section 5)

The rate stands inside the velocity, so after a drop the old, larger steps fade over ~10 steps;
`optax.sgd` multiplies by it outside, which shrinks them at once (FACTS section 2).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict
import optax

from alexnet_jax.errors import UserError

Rates = dict[str, dict[str, jax.Array]]


def validate(config: ConfigDict | FrozenConfigDict) -> None:
  """Raises UserError where `config.optim` cannot be."""
  choices = {'schedule': ('steps', 'plateau', 'dexp', 'constant'), 'unit': ('epoch', 'step')}
  for key, allowed in choices.items():
    if config[key] not in allowed:
      raise UserError(f'config.optim.{key}={config[key]!r}: choose one of {", ".join(allowed)}')
  rules = ('auto', 'linear', 'sqrt', 'none')
  if config.scaling.rule not in rules:
    raise UserError(
      f'config.optim.scaling.rule={config.scaling.rule!r}: choose one of {", ".join(rules)}'
    )
  if config.scaling.batch < 1:
    raise UserError(f'config.optim.scaling.batch={config.scaling.batch}: must be at least 1')
  for key in ('rate', 'bias_rate', 'decay', 'bias_decay', 'warmup'):
    if config[key] < 0:
      raise UserError(f'config.optim.{key}={config[key]}: must not be negative')
  if not 0 <= config.momentum < 1:
    raise UserError(f'config.optim.momentum={config.momentum}: must be in [0, 1)')
  for key in ('levels', 'bias_levels'):
    if config.dexp[key] < 2:
      raise UserError(f'config.optim.dexp.{key}={config.dexp[key]}: must be at least 2')
  if not 0 <= config.ema < 1:
    raise UserError(f'config.optim.ema={config.ema}: must be 0 (none) or more, and less than 1')
  numbers = all(isinstance(b, int | float) for b in config.boundaries)
  if not numbers or list(config.boundaries) != sorted(config.boundaries):
    raise UserError(
      f'config.optim.boundaries={config.boundaries!r}: write ascending numbers, as in "(25.,51.)"'
    )
  for event in config.layer_decay:
    if len(event) != 2 or not isinstance(event[1], int | float) or event[1] < 0:
      raise UserError(f'config.optim.layer_decay: {event!r} is not (layer, decay)')
  for event in config.layer_rates:
    if len(event) != 3:
      raise UserError(f'config.optim.layer_rates: {event!r} is not (layer, epoch, factor)')


def averaged(average: dict, params: dict, decay: float, step: jax.Array) -> dict:
  """The running average of the parameters, `average + (1 - d) * (params - average)`, after a step.

  Args:
    average: before, like `params`; the initial parameters at first.
    params: after the step.
    decay: d in the long run. Of step s it is at most s / (s + 9), so that the first weights are soon
      forgotten.
    step: number of the step, from 1.
  """
  share = 1 - jnp.minimum(decay, step / (step + 9))
  return jax.tree.map(lambda old, new: old + share * (new - old), average, params)


def _is_weight(path: tuple) -> bool:
  """By name: biases are two-dimensional here, so the number of dimensions tells nothing."""
  return path[-1].key == 'kernel'


def _scale_by_rates() -> optax.GradientTransformationExtraArgs:
  """Multiplies each gradient by minus its own rate, `rates[layer][name]`."""

  def update(updates, state, params=None, *, rates: Rates, **_):
    return jax.tree.map(lambda g, rate: -rate * g, updates, rates), state

  return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _skip_frozen(
  inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """Leaves parameters of rate 0 alone, and their velocity with them (O, src/weights.cu)."""

  def update(updates, state, params=None, *, rates: Rates, **_):
    new_updates, new_state = inner.update(updates, state, params)
    frozen = jax.tree.map(lambda rate: rate == 0, rates)
    hold = lambda old, new: jax.tree.map(jnp.where, frozen, old, new)
    zeros = jax.tree.map(jnp.zeros_like, updates)
    return hold(zeros, new_updates), optax.TraceState(hold(state.trace, new_state.trace))

  return optax.GradientTransformationExtraArgs(inner.init, update)


def paper_sgd(config: ConfigDict | FrozenConfigDict) -> optax.GradientTransformationExtraArgs:
  """The update above as a chain of Optax parts.

  Args:
    config: `config.optim`: `momentum`, `decay` (weights), `layer_decay` and `bias_decay` are used.

  Returns:
    A transformation whose `update(gradients, state, params, rates=...)` takes the rates of the step, a
    tree of scalars shaped like the parameters (`rate_tree`).
  """
  own = dict(config.layer_decay)
  where = lambda rule: lambda params: jax.tree.map_with_path(lambda path, _: rule(path), params)
  layers = [
    optax.add_decayed_weights(
      decay, where(lambda path, layer=layer: _is_weight(path) and path[0].key == layer)
    )
    for layer, decay in own.items()
  ]
  return optax.chain(
    optax.add_decayed_weights(
      config.decay, where(lambda path: _is_weight(path) and path[0].key not in own)
    ),
    optax.add_decayed_weights(config.bias_decay, where(lambda path: not _is_weight(path))),
    *layers,
    _scale_by_rates(),
    _skip_frozen(optax.trace(config.momentum)),
  )


def rate_tree(
  config: ConfigDict | FrozenConfigDict,
  params: Mapping,
  weight_rate: float,
  bias_rate: float,
  epoch: float,
) -> dict[str, dict[str, float]]:
  """A rate for every parameter, as `paper_sgd` takes them, with `layer_rates` applied at `epoch`.

  Raises:
    UserError: `config.layer_rates` names a layer that the network lacks.
  """
  factors = {}
  for layer, start, factor in config.layer_rates:
    if layer not in params:
      raise UserError(f'config.optim.layer_rates names {layer!r}; layers here: {", ".join(params)}')
    if epoch >= start:
      factors[layer] = factor
  return {
    layer: {
      name: (weight_rate if name == 'kernel' else bias_rate) * factors.get(layer, 1.0)
      for name in names
    }
    for layer, names in params.items()
  }
