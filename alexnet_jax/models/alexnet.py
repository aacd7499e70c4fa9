"""AlexNet: the network of "ImageNet Classification with Deep Convolutional Neural Networks" (NIPS 2012).

The paper trained it on two GPUs. Each GPU held one of two towers, with half of the maps or units of
every layer, and the towers exchanged their outputs only before conv3, fc6 and fc7 (Figure 2):

    layer   weights                each tower reads    followed by              output of both towers
    conv1   11x11 stride 4, 96     the image           ReLU, LRN, max pooling   55x55x96, 27x27x96
    conv2   5x5, 256               its own maps        ReLU, LRN, max pooling   27x27x256, 13x13x256
    conv3   3x3, 384               all maps            ReLU                     13x13x384
    conv4   3x3, 384               its own maps        ReLU                     13x13x384
    conv5   3x3, 256               its own maps        ReLU, max pooling        13x13x256, 6x6x256
    fc6     4096                   all maps            ReLU, dropout            4096
    fc7     4096                   all units           ReLU, dropout            4096
    fc8     1000                   its own units       (sum over the towers)    1000 logits

The code computes the towers that live on this device (`alexnet_jax.models.towers`), so the same lines
serve one device that holds both towers and two devices that hold one each.

Parameters are float32 arrays `params[layer]['kernel' | 'bias']`. Every array but the last layer's bias
has a leading tower axis:

    conv2   kernel [2, 5, 5, 48, 128]    bias [2, 128]
    conv3   kernel [2, 3, 3, 256, 192]   bias [2, 192]
    fc6     kernel [2, 9216, 2048]       bias [2, 2048]
    fc8     kernel [2, 2048, classes]    bias [classes]
"""

import functools

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict

from alexnet_jax.errors import UserError
from alexnet_jax.models import initializers, layers, operations, spec
from alexnet_jax.models.keys import validate
from alexnet_jax.models.spec import conv, fc, head
from alexnet_jax.models.towers import (
  Array,
  Head,
  TowerConv,
  TowerDense,
  TowerLocal,
  Towers,
  axis_size,
  exchange,
)

DEFAULT_CLASSES = 1000

# The layers of the paper (section 3.5), with the maps or units of both towers together. `then` lists the
# operations that follow a layer; without it only ReLU ('act') follows.
LAYERS: dict[str, ConfigDict] = {
  # Three rows and columns of zeros at the bottom and right give 55x55 outputs, as in the original code.
  'conv1': conv(96, 11, ((0, 3), (0, 3)), stride=4, then=('act', 'norm', 'pool')),
  'conv2': conv(256, 5, 2, bias=1.0, then=('act', 'norm', 'pool')),
  'conv3': conv(384, 3, 1, exchange=True),
  'conv4': conv(384, 3, 1, bias=1.0),
  'conv5': conv(256, 3, 1, bias=1.0, then=('act', 'pool')),
  # Part of a network only where model.layers names it, as after the override `conv6` (docs/FACTS.md, section
  # 4).
  'conv6': conv(256, 3, 1, bias=1.0, exchange=True, std=0.03),
  'fc6': fc(4096, then=('act', 'dropout')),
  'fc7': fc(4096, then=('act', 'dropout')),
  'fc8': head(),
}


class AlexNet(nn.Module):
  """A network described by `config.model`, with all towers or those of one device.

  Attributes:
    config: `config.model`, frozen: AlexNet's layers, or those of `models.cifar` or `models.lenet`.
    local_towers: number of towers on this device; 0 means all.
    tower_axis: under `shard_map`, the mesh axis over which the towers are spread; otherwise None.
    data_axis: under `shard_map`, the mesh axis over which the batch is split; otherwise None.
    unit_axis: the mesh axis over which the units of the fully connected layers are spread. Each of its
      devices then computes its units for the whole batch ("one weird trick", arXiv 1404.5997). None means
      that every device holds all units.
  """

  config: FrozenConfigDict
  local_towers: int = 0
  tower_axis: str | None = None
  data_axis: str | None = None
  unit_axis: str | None = None

  @nn.compact
  def __call__(self, images: Array, *, train: bool = False, rows: Array | None = None) -> Array:
    """Computes the logits, float32 `[B, classes]`.

    Every layer but the last applies its weights and then the operations in its `then`; their outputs
    are sown among the 'intermediates' under `intermediate_key`.

    Args:
      images: float `[B, S, S, 3]`, NHWC, RGB, preprocessed as the recipe says: grey levels less the
        mean, for all recipes but torchvision.
      train: whether to apply dropout and update the batch statistics. It needs `rngs={'dropout': key}`.
      rows: int32 `[B]`, the number of each row in the global batch, which selects its dropout masks; by
        default 0 ... B-1.

    Raises:
      UserError: the images do not have the shape that the config says.
    """
    config = self.config
    self._check_images(images)
    rows = jnp.arange(len(images)) if rows is None else rows
    key = self.make_rng('dropout') if train else None

    images = images.mean(-1, keepdims=True) if config.gray else images
    xs = [images.astype(config.dtype)] * (self.local_towers or config.towers)
    for layer in config.layers[:-1]:
      if self.unit_axis and layer == spec.first_dense(config):
        xs, rows = self._gather_batch(xs, rows)
      xs = self._apply_weights(layer, xs)
      for position, operation in enumerate(config[layer].then):
        with jax.named_scope(intermediate_key(layer, operation)):
          xs = self._apply_operation(operation, layer, position, xs, key, rows)
        self.sow('intermediates', intermediate_key(layer, operation), xs)
    return self._logits(xs)

  def _check_images(self, images: Array) -> None:
    size = self.config.input_size
    if images.shape[1:] != (size, size, 3):
      raise UserError(
        f'images have shape {images.shape}; this network takes [B, {size}, {size}, 3]'
      )

  def _apply_weights(self, layer: str, xs: Towers) -> Towers:
    """Applies the convolution or the matrix of a layer; `exchange` gives each tower the maps of all."""
    config, described = self.config, self.config[layer]
    features = spec.features_per_tower(described.features, config.width, config.towers)
    init = initializers.for_layer(config.init, described)
    if spec.is_dense(layer) and self.unit_axis and layer != spec.first_dense(config):
      xs = [lax.all_gather(x, self.unit_axis, axis=1, tiled=True) for x in xs]
    if described.exchange and layer != config.layers[0]:  # all towers read the same image
      xs = exchange(xs, config.towers, self.tower_axis)
    if spec.is_dense(layer):
      # The exchange comes first, so the inputs are in the order (H, W, tower, C); importers permute to match.
      flat = [x.reshape(len(x), -1) for x in xs]
      return TowerDense(features // axis_size(self.unit_axis), *init, name=layer)(flat)
    kind = TowerLocal if spec.is_local(layer) else TowerConv
    geometry = described.size, described.stride, described.padding
    return kind(features, *geometry, *init, name=layer)(xs)

  def _apply_operation(
    self,
    operation: str,
    layer: str,
    position: int,
    xs: Towers,
    key: Array | None,
    rows: Array,
  ) -> Towers:
    """Applies one operation of a layer's `then`; `key` is None outside of training."""
    config = self.config
    match operation:
      case 'act':
        return [operations.ACTIVATIONS[config.activation](x) for x in xs]
      case 'pool':
        return [layers.max_pool(x, **config.pool) for x in xs]
      case 'avg_pool':
        return [layers.avg_pool(x, **config.pool) for x in xs]
      case 'norm' if config.norm == 'lrn':
        return operations.local_response_norm(xs, config, self.tower_axis, self._first_tower())
      case 'norm' if config.norm == 'batch':
        return self._batch_norm(layer, xs, train=key is not None)
      case 'map_norm' if config.norm == 'lrn':  # not in the paper (docs/FACTS.md, 1.3)
        return [layers.map_response_norm(x, **config.map_norm) for x in xs]
      case 'dropout' if config.dropout.rate > 0:
        keys = None if key is None else self._dropout_keys(layer, position, key, rows)
        unit_axis = self.unit_axis if spec.is_dense(layer) else None
        return operations.dropout(xs, config, keys, unit_axis)
    return xs  # a normalisation or dropout that the config turns off

  def _batch_norm(self, layer: str, xs: Towers, train: bool) -> Towers:
    """Applies batch normalisation with the moments of the global batch.

    Rows that the mask excludes from the loss (undecodable images, which are all zeros) count in the moments.
    """
    normalise = nn.BatchNorm(
      use_running_average=not train,
      axis=(0, -1),  # type: ignore[arg-type]  # Flax takes several axes, but declares one
      axis_name=self.data_axis,
      dtype=xs[0].dtype,
      name=f'batch_norm{spec.number(layer)}',
      **self.config.batch_norm,
    )
    return list(normalise(jnp.stack(xs)))

  def _logits(self, xs: Towers) -> Array:
    """Applies the last layer: the sum of what each tower contributes, plus one bias."""
    config, layer = self.config, self.config.layers[-1]
    classes = config.num_classes or DEFAULT_CLASSES
    init = initializers.for_layer(config.init, config[layer])
    last = Head(classes, config.towers, self.tower_axis, self.unit_axis, *init, name=layer)
    return last([x.reshape(len(x), -1) for x in xs])

  def _dropout_keys(self, layer: str, position: int, key: Array, rows: Array) -> list[Array]:
    config = self.config
    index, local = config.layers.index(layer), self.local_towers or config.towers
    keys = operations.row_keys(key, rows)
    return operations.dropout_keys(keys, index, position, self._first_tower(), local, config.towers)

  def _first_tower(self) -> Array | int:
    """Returns the number of the first tower on this device."""
    local = self.local_towers or self.config.towers
    return lax.axis_index(self.tower_axis) * local if self.tower_axis else 0

  def _gather_batch(self, xs: Towers, rows: Array) -> tuple[Towers, Array]:
    """Gathers the whole batch and its row numbers from the devices along `unit_axis`."""
    gather = functools.partial(lax.all_gather, axis_name=self.unit_axis, tiled=True)
    return [gather(x) for x in xs], gather(rows)


def intermediate_key(layer: str, operation: str) -> str:
  """Returns the key of an operation's output among the 'intermediates', such as 'conv5/pool'.

  The value is a tuple with one list of arrays, one array for each local tower, for each time that
  the layer's `then` lists the operation.
  """
  return f'{layer}/{operation}'


def create(config: ConfigDict | FrozenConfigDict) -> AlexNet:
  """Returns the Flax module of the network that `config.model` describes, for one device and no mesh.

  Example:
    `module = create(config.model); logits = module.apply({'params': params}, images, train=False)`.

  Raises:
    UserError: no network can be built as the config says.
  """
  validate(config)
  return AlexNet(FrozenConfigDict(config))
