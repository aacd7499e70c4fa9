"""AlexNet: two towers of convolutions that meet only where the paper lets its two GPUs talk.

The network is written over the towers that live on this device (`alexnet_jax.models.towers`), so that the
same lines serve one device that holds both and two that hold one each.

Parameters: `params[layer]['kernel' | 'bias']`. Every one but the last layer's bias carries a leading
tower axis: conv2 kernel `[2, 5, 5, 48, 128]`, conv3 `[2, 3, 3, 256, 192]`, fc6 `[2, 9216, 2048]`, fc8
`[2, 2048, classes]`, biases `[2, C]`, fc8's bias `[classes]`. All are float32.
"""

import functools
import math
import string
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict

from alexnet_jax.errors import UserError
from alexnet_jax.models import layers
from alexnet_jax.models.keys import validate
from alexnet_jax.models.layers.local import avg_pool
from alexnet_jax.models.towers import (
  Array,
  Head,
  Initializer,
  TowerBatchNorm,
  TowerConv,
  TowerDense,
  TowerLocal,
  Towers,
  axis_size,
  exchange,
)

ACTIVATIONS = {
  'relu': nn.relu,
  'tanh': jnp.tanh,
  'scaled_tanh': lambda x: 1.7159 * jnp.tanh(2 / 3 * x),
}
DEFAULT_CLASSES = 1000
# Places after a layer with dropout keys of their own. It is part of what makes a run repeatable.
_PLACES = 5


class AlexNet(nn.Module):
  """The network of a recipe (`alexnet_jax.config.recipes`), on all towers or on those of one device.

  Attributes:
    config: `config.model` of a recipe, frozen.
    local_towers: how many towers this device holds; 0 means all.
    tower_axis: the mesh axis over which the towers are spread, under `shard_map`; None without a mesh.
    data_axis: the mesh axis over which the batch is split, under `shard_map`; None without a mesh.
    unit_axis: the mesh axis over which the units of the fully connected layers are spread, for the
      whole batch at once ("one weird trick", arXiv 1404.5997); None: each device has them all.
  """

  config: FrozenConfigDict
  local_towers: int = 0
  tower_axis: str | None = None
  data_axis: str | None = None
  unit_axis: str | None = None

  @nn.compact
  def __call__(self, images: Array, *, train: bool = False, rows: Array | None = None) -> Array:
    """Returns the logits, float32 `[B, classes]`.

    Args:
      images: float `[B, S, S, 3]` NHWC RGB, already preprocessed as the recipe says
        (mean-subtracted, in grey levels, for all recipes but torchvision).
      train: whether dropout is on and batch statistics are updated. Needs `rngs={'dropout': key}`.
      rows: int32 `[B]`, the place of each row in the global batch, which keys its dropout masks;
        0 ... B-1 if left out.
    """
    c = self.config
    size = c.input_size
    if images.shape[1:] != (size, size, 3):
      raise UserError(
        f'images have shape {images.shape}; this network takes [B, {size}, {size}, 3]'
      )
    rows = jnp.arange(len(images)) if rows is None else rows
    base = self.make_rng('dropout') if train else None
    keys = self._row_keys(base, rows)
    images = images.mean(-1, keepdims=True) if c.gray else images
    xs = [images.astype(c.dtype)] * (self.local_towers or c.towers)
    for name in c.layers[:-1]:
      if self.unit_axis and name == first_dense(c):
        whole_batch = functools.partial(lax.all_gather, axis_name=self.unit_axis, tiled=True)
        xs, keys = [whole_batch(x) for x in xs], self._row_keys(base, whole_batch(rows))
      xs = self._layer(name, xs)
      index = c.layers.index(name)
      for place, operation in enumerate(c[name].then):
        with jax.named_scope(sown(c, operation, name)[0]):  # for profiles
          xs = self._operation(operation, name, xs, keys, (index, place), train)
    name = c.layers[-1]
    kernel_init, bias_init = self._initializers(c[name])
    return Head(
      c.num_classes or DEFAULT_CLASSES,
      c.towers,
      self.tower_axis,
      self.unit_axis,
      kernel_init,
      bias_init,
      name=name,
    )([x.reshape(len(x), -1) for x in xs])

  def _row_keys(self, base: Array | None, rows: Array) -> Array | None:
    return None if base is None else jax.vmap(jax.random.fold_in, (None, 0))(base, rows)

  def _initializers(self, layer: FrozenConfigDict) -> tuple[Initializer, Initializer]:
    """Initialisers called as `(key, shape, fan_in)`; FACTS section 1.5."""
    if self.config.init == 'torch':  # U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for kernels and biases

      def uniform(key, shape, fan_in):
        flat = jax.random.uniform(key, (math.prod(shape),), jnp.float32, -1, 1)
        return flat.reshape(shape) / math.sqrt(fan_in)

      return uniform, uniform
    # Drawn flat: the same numbers, which XLA on CPUs compiles several times faster.
    draw = lambda key, shape: jax.random.normal(key, (math.prod(shape),)).reshape(shape)
    return (
      lambda key, shape, fan_in: layer.std * draw(key, shape),
      lambda key, shape, fan_in: jnp.full(shape, layer.bias, jnp.float32),
    )

  def _layer(self, name: str, xs: Towers) -> Towers:
    layer = self.config[name]
    features = scaled(layer.features, self.config.width, self.config.towers)
    initializers = self._initializers(layer)
    if is_dense(name) and self.unit_axis and name != first_dense(self.config):
      xs = [lax.all_gather(x, self.unit_axis, axis=1, tiled=True) for x in xs]
    if layer.exchange:
      xs = exchange(xs, self.config.towers, self.tower_axis)
    if is_dense(name):
      here = features // axis_size(self.unit_axis)
      # After the exchange, so the order is (H, W, tower, C); importers permute to match.
      return TowerDense(here, *initializers, name=name)([x.reshape(len(x), -1) for x in xs])
    kind = TowerLocal if is_local(name) else TowerConv
    return kind(features, layer.size, layer.stride, layer.padding, *initializers, name=name)(xs)

  def _operation(
    self,
    operation: str,
    layer: str,
    xs: Towers,
    keys: Array | None,
    place: tuple[int, int],
    train: bool,
  ) -> Towers:
    c = self.config
    if operation == 'act':
      xs = [ACTIVATIONS[c.activation](x) for x in xs]
    elif operation == 'pool':
      xs = [layers.max_pool(x, **c.pool) for x in xs]
    elif operation == 'avg_pool':
      xs = [avg_pool(x, **c.pool) for x in xs]
    elif operation == 'norm' and c.norm == 'lrn':
      xs = self._local_response_norm(xs)
    elif operation == 'norm' and c.norm == 'batch':
      name = f'batch_norm{number(layer)}'
      xs = TowerBatchNorm(**c.batch_norm, data_axis=self.data_axis, name=name)(xs, train)
    elif operation == 'map_norm' and c.norm == 'lrn':
      xs = [layers.map_response_norm(x, **c.map_norm) for x in xs]
    elif operation == 'dropout' and c.dropout.rate > 0:
      part: tuple[Array | int, int] = (0, 1)
      if self.unit_axis and is_dense(layer):
        part = lax.axis_index(self.unit_axis), axis_size(self.unit_axis)
      xs = [
        layers.dropout(x, self._dropout_keys(keys, place, t), part=part, **c.dropout)
        for t, x in enumerate(xs)
      ]
    self.sow('intermediates', sown(c, operation, layer)[0], xs)
    return xs

  def _first_tower(self) -> Array | int:
    """The number of the first tower on this device."""
    local = self.local_towers or self.config.towers
    return lax.axis_index(self.tower_axis) * local if self.tower_axis else 0

  def _local_response_norm(self, xs: Towers) -> Towers:
    c = self.config.lrn
    constants = {'size': c.size, 'k': c.k, 'beta': c.beta}
    constants['alpha'] = c.alpha / c.size if c.divide else c.alpha
    if c.scope == 'tower':
      return [layers.local_response_norm(x, **constants) for x in xs]
    # Over all maps of the layer: this reaches across the tower border and so costs a gather.
    width = xs[0].shape[-1]
    x = layers.local_response_norm(
      exchange(xs, self.config.towers, self.tower_axis)[0], **constants
    )
    first = self._first_tower()
    return [
      lax.dynamic_slice_in_dim(x, (first + t) * width, width, axis=-1) for t in range(len(xs))
    ]

  def _dropout_keys(self, keys: Array | None, place: tuple[int, int], tower: int) -> Array | None:
    if keys is None:
      return None
    index, operation = place
    purpose = (index * _PLACES + operation) * self.config.towers
    purpose = purpose + self._first_tower() + tower
    return jax.vmap(jax.random.fold_in, (0, None))(keys, purpose)


def sown(config: ConfigDict | FrozenConfigDict, operation: str, layer: str) -> tuple[str, int]:
  """Where the network keeps what an operation after a layer gave, among its 'intermediates'.

  Returns:
    The name, `pool1`, and the place under it: conv6 and fc6 share `act6`.
  """
  name = lambda layer: operation + number(layer)
  before = config.layers[: config.layers.index(layer)]
  return name(layer), sum(name(other) == name(layer) for other in before)


def number(layer: str) -> str:
  """The number in a layer's name, as a string: 3 of conv3, fc3 and local3."""
  return layer.lstrip(string.ascii_lowercase)


def is_local(layer: str) -> bool:
  """Whether a layer is locally connected, by its name."""
  return layer.startswith('local')


def is_dense(layer: str) -> bool:
  """Whether a layer is fully connected, by its name."""
  return layer.startswith('fc')


def first_dense(config: ConfigDict | FrozenConfigDict) -> str:
  """The first fully connected layer of `config.model`, fc6 in the paper's net."""
  return next(filter(is_dense, config.layers))


def scaled(features: int, width: float, towers: int) -> int:
  """Features a tower of a layer with `features` in all, at width multiplier `width`; at least 1."""
  return max(1, round(features * width / towers))


def create(config: ConfigDict | FrozenConfigDict) -> AlexNet:
  """Makes the Flax module of `config.model`, for one device and no mesh.

  Example:
    `module = create(config.model); logits = module.apply({'params': params}, images, train=False)`.

  Raises:
    UserError: the config asks for what the network cannot do.
  """
  validate(config)
  return AlexNet(FrozenConfigDict(config))


def layer_table(config: ConfigDict | FrozenConfigDict) -> list[dict[str, Any]]:
  """Describes each layer of `config.model` without computing anything.

  Raises:
    UserError: the config asks for what the network cannot do, or its input is too small.

  Returns:
    A row a layer with parameters, and a row a pooling layer: `{'layer', 'output' (H, W, C or C, over
    all towers), 'parameters', 'macs' (multiply-adds of one image, forward)}`.
  """
  module = create(config)
  config = module.config
  image = jax.ShapeDtypeStruct((1, config.input_size, config.input_size, 3), jnp.float32)
  variables = jax.eval_shape(module.init, jax.random.key(0), image)
  capture = functools.partial(module.apply, capture_intermediates=True, mutable=['intermediates'])
  _, state = jax.eval_shape(capture, variables, image)
  outputs, params = state['intermediates'], variables['params']

  def row(name, towers, *tensors):
    *space, maps = towers[0].shape[1:]
    kernel = tensors[0].shape if tensors else (0,)
    return {
      'layer': name,
      'output': (*space, maps * len(towers)),
      'parameters': sum(math.prod(p.shape) for p in tensors),
      'macs': math.prod(kernel) * (1 if is_local(name) else math.prod(space)),
    }

  rows = []
  for name in config.layers:
    out = outputs[name]['__call__'][0]
    towers = out if isinstance(out, (list, tuple)) else [out]
    if 0 in towers[0].shape or 0 in params[name]['kernel'].shape:
      raise UserError(
        f'config.model.input_size={config.input_size} is too small: nothing is left of it at {name}'
      )
    rows.append(row(name, towers, params[name]['kernel'], params[name]['bias']))
    place = number(name)
    norm = params.get(f'batch_norm{place}')
    if norm:
      rows.append(row(f'batch_norm{place}', outputs[f'norm{place}'][0], *norm.values()))
      rows[-1]['macs'] = 0
    for kind in {'pool', 'avg_pool'} & set(config[name].get('then', ())):
      rows.extend(row(f'{kind}{place}', pooled) for pooled in outputs[f'{kind}{place}'])
  return rows
