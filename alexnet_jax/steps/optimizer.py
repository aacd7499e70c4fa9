"""The optimizer of the paper: SGD with momentum, and a learning rate for each parameter.

    v <- momentum * v - decay * rate * w - rate * gradient;    w <- w + v        (paper section 5)

The rate is inside the velocity, so after the rate drops, the older, larger steps fade over about 10 steps.
`optax.sgd` multiplies the velocity by the rate, which shrinks them at once (docs/FACTS.md, section 2).
"""

from collections.abc import Collection, Mapping
import functools

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict
import optax

from alexnet_jax.models import spec

Rates = dict[str, dict[str, jax.Array]]


def averaged(average: dict, params: dict, decay: float, step: jax.Array) -> dict:
  """Returns the exponential moving average (EMA) of the parameters after a step.

  It is `average + (1 - d) * (params - average)`, where d is the smaller of `decay` and s / (s + 9) at step s.
  The second term gives the initial weights little influence.

  Args:
    average: the average before the step, a tree like `params`; initially the initial parameters.
    params: the parameters after the step.
    decay: the largest d.
    step: number of the step s, counted from 1, int32 scalar.
  """
  share = 1 - jnp.minimum(decay, step / (step + 9))
  return jax.tree.map(lambda old, new: old + share * (new - old), average, params)


def is_weight(path: tuple) -> bool:
  """Returns whether the parameter at `path` is a weight.

  Its name decides; the number of dimensions cannot, because biases have two (tower and unit).
  """
  return path[-1].key == 'kernel'


def weight_mask(params: Mapping, layers: Collection[str]) -> dict:
  """Returns a tree of bools like `params`, True for the weights of `layers`."""
  return jax.tree.map_with_path(lambda path, _: is_weight(path) and path[0].key in layers, params)


def bias_mask(params: Mapping) -> dict:
  """Returns a tree of bools like `params`, True for everything but weights."""
  return jax.tree.map_with_path(lambda path, _: not is_weight(path), params)


def _scale_by_rates() -> optax.GradientTransformationExtraArgs:
  """Multiplies each gradient by minus its own rate, `rates[layer][name]`."""

  def init(_):
    return optax.EmptyState()

  def update(updates, state, params=None, *, rates: Rates, **_):
    return jax.tree.map(lambda g, rate: -rate * g, updates, rates), state

  return optax.GradientTransformationExtraArgs(init, update)


def _skip_frozen(
  inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """Leaves parameters whose rate is 0, and their velocity, unchanged (as O, the original code)."""

  def update(updates, state, params=None, *, rates: Rates, **_):
    new_updates, new_state = inner.update(updates, state, params)
    frozen = jax.tree.map(lambda rate: rate == 0, rates)
    zeros = jax.tree.map(jnp.zeros_like, updates)
    trace = jax.tree.map(jnp.where, frozen, state.trace, new_state.trace)
    return jax.tree.map(jnp.where, frozen, zeros, new_updates), optax.TraceState(trace)

  return optax.GradientTransformationExtraArgs(inner.init, update)


def paper_sgd(config: ConfigDict | FrozenConfigDict) -> optax.GradientTransformationExtraArgs:
  """Returns the update of the paper as a chain of Optax transformations.

  Args:
    config: `config.optim`: `momentum`, `decay` (weights), `bias_decay` and `layer_decay` (a decay for the
      weights of single layers, in place of `decay`) are used.

  Returns:
    A transformation whose `update(gradients, state, params, rates=...)` takes the rates of the step: a
    tree of scalars shaped like the parameters (`rate_tree`).
  """
  layer_decay = dict(config.layer_decay)

  def other_weights(params):
    return weight_mask(params, params.keys() - layer_decay.keys())

  def weights_of(layer):
    return functools.partial(weight_mask, layers=(layer,))

  return optax.chain(
    optax.add_decayed_weights(config.decay, other_weights),
    optax.add_decayed_weights(config.bias_decay, bias_mask),
    *(optax.add_decayed_weights(decay, weights_of(layer)) for layer, decay in layer_decay.items()),
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
  """Returns the learning rate of every parameter, a tree like `params`, as `paper_sgd` takes it.

  Args:
    config: `config.optim`; `layer_rates`, the factors of single layers from some epoch on, is used. A factor
      also holds for the batch normalisation that follows the layer.
    params: parameters by layer and name; only the names are read.
    weight_rate: the rate of weights.
    bias_rate: the rate of all other parameters.
    epoch: number of complete epochs, with fraction.
  """
  factors = {}
  for layer, start, factor in sorted(config.layer_rates, key=lambda change: change[1]):
    if epoch >= start:
      factors[layer] = factors[f'batch_norm{spec.number(layer)}'] = factor
  return {
    layer: {
      name: (weight_rate if name == 'kernel' else bias_rate) * factors.get(layer, 1.0)
      for name in names
    }
    for layer, names in params.items()
  }
