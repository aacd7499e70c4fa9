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
