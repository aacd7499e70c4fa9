"""Operations that follow a layer's weights: activations, local response normalisation and dropout.

`local_response_norm` and `dropout` take `xs`, a list with one array for each tower on this device
(`alexnet_jax.models.towers`), and `config.model`, and return a list of arrays in the same order. Each
array is `[B, H, W, C]`, or `[B, C]` after a fully connected layer.
"""

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
from ml_collections import FrozenConfigDict

from alexnet_jax.models import layers
from alexnet_jax.models.spec import MAX_OPERATIONS
from alexnet_jax.models.towers import Array, Towers, axis_size, exchange


def scaled_tanh(x: Array) -> Array:
  """Returns 1.7159 tanh(2x/3), the activation of LeNet-5 (LeCun et al. 1998, appendix A)."""
  return 1.7159 * jnp.tanh(2 / 3 * x)


ACTIVATIONS = {'relu': nn.relu, 'tanh': jnp.tanh, 'scaled_tanh': scaled_tanh}


def local_response_norm(
  xs: Towers, config: FrozenConfigDict, tower_axis: str | None, first_tower: Array | int
) -> Towers:
  """Normalises each activation by those of neighbouring maps (section 3.3), with the constants `config.lrn`.

  With `config.lrn.scope` 'tower' the neighbours are maps of the same tower, so the towers need not
  communicate. With 'all' the first and last maps of a tower have neighbours in the other one, which
  costs an all-gather.

  Args:
    xs: maps of the local towers.
    config: `config.model`.
    tower_axis: the mesh axis of the towers, or None where all towers are local.
    first_tower: the number of the first local tower.
  """
  lrn = config.lrn
  constants = {
    'size': lrn.size,
    'k': lrn.k,
    'alpha': lrn.alpha / lrn.size if lrn.divide else lrn.alpha,
    'beta': lrn.beta,
  }
  if lrn.scope == 'tower':
    return [layers.local_response_norm(x, **constants) for x in xs]
  maps = xs[0].shape[-1]
  joined = exchange(xs, config.towers, tower_axis)[0]
  normalised = layers.local_response_norm(joined, **constants)
  return [
    lax.dynamic_slice_in_dim(normalised, (first_tower + t) * maps, maps, axis=-1)
    for t in range(len(xs))
  ]


def dropout(
  xs: Towers, config: FrozenConfigDict, keys: list[Array] | None, unit_axis: str | None
) -> Towers:
  """Sets each activation to zero with probability `config.dropout.rate` (section 4.2).

  Args:
    xs: activations of the local towers.
    config: `config.model`.
    keys: for each tower one random key for each row, from `dropout_keys`; None outside of training.
    unit_axis: the mesh axis over which the units of `xs` are spread, or None. The mask does not depend
      on it: each device draws the whole mask and takes its part.
  """
  part: tuple[Array | int, int] = (0, 1)
  if unit_axis:
    part = lax.axis_index(unit_axis), axis_size(unit_axis)
  return [
    layers.dropout(x, keys[t] if keys else None, part=part, **config.dropout)
    for t, x in enumerate(xs)
  ]


def row_keys(key: Array, rows: Array) -> Array:
  """Returns one random key for each row, `[B]`; `rows` int32 `[B]` are row numbers in the global batch."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, rows)


def dropout_keys(
  keys: Array, layer: int, position: int, first_tower: Array | int, local: int, towers: int
) -> list[Array]:
  """Returns the keys of one dropout operation: for each local tower one key for each row, `[B]`.

  The keys depend on the row in the global batch, the operation and the tower, and never on the device. A
  run therefore draws the same masks on any mesh.

  Args:
    keys: one key for each row, from `row_keys`.
    layer: index of the layer among `config.model.layers`.
    position: index of the operation in the `then` of its layer.
    first_tower: the number of the first local tower.
    local: number of towers on this device.
    towers: number of towers of the network.
  """
  first = (layer * MAX_OPERATIONS + position) * towers + first_tower
  return [jax.vmap(jax.random.fold_in, (0, None))(keys, first + t) for t in range(local)]
