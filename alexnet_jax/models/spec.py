"""Layers as data: how `config.model` describes each layer, and what the name of a layer says about it.

A network is a sequence of named layers. The name gives the kind: `conv` (convolution), `local` (locally
connected) or `fc` (fully connected), followed by the layer's number. Every layer has weights; the operations
that follow it (activation, normalisation, pooling, dropout) are listed in its `then`.
"""

from collections.abc import Sequence
import string

from ml_collections import ConfigDict, FrozenConfigDict

NO_PADDING = ((0, 0), (0, 0))
# The number of operations that `then` of a layer may list. The keys of dropout depend on it, so it is part of
# what makes a run repeatable: never change it.
MAX_OPERATIONS = 5


def conv(
  features: int,
  size: int,
  padding: int | tuple,
  then: Sequence[str] = ('act',),
  stride: int = 1,
  exchange: bool = False,
  std: float = 0.01,
  bias: float = 0.0,
) -> ConfigDict:
  """Describes a convolutional or a locally connected layer; `features` counts the maps of all towers."""
  return ConfigDict(
    {
      'features': features,  # maps of all towers together, before model.width
      'size': size,  # side of the kernel, in pixels
      'stride': stride,  # distance between neighbouring windows, in pixels
      # Zeros around the maps: ((top, bottom), (left, right)).
      'padding': ((padding, padding), (padding, padding)) if isinstance(padding, int) else padding,
      'exchange': exchange,  # whether each tower reads the maps of all towers
      # Operations that follow, in order: act, norm, map_norm, pool, avg_pool, dropout.
      'then': tuple(then),
      'std': std,  # standard deviation of the initial weights
      'bias': bias,  # initial biases
    }
  )


def fc(
  features: int = 4096,
  std: float = 0.01,
  bias: float = 1.0,
  then: Sequence[str] = ('act', 'dropout'),
) -> ConfigDict:
  """Describes a fully connected layer that reads all towers; `features` counts the units of all towers."""
  return ConfigDict(
    {
      'features': features,  # units of all towers together, before model.width
      'exchange': True,  # whether each tower reads the units, or maps, of all towers
      'then': tuple(then),  # operations that follow, in order: act, dropout
      'std': std,  # standard deviation of the initial weights
      'bias': bias,  # initial biases
    }
  )


def head(std: float = 0.01, bias: float = 0.0) -> ConfigDict:
  """Describes the last layer, which gives one logit for each class."""
  return ConfigDict(
    {
      'std': std,  # standard deviation of the initial weights
      'bias': bias,  # initial biases
    }
  )


def replace_layers(model: ConfigDict, layers: dict[str, ConfigDict]) -> ConfigDict:
  """Replaces the layers of `model` (`config.model`) by `layers`, in their order, and returns `model`.

  All other keys keep their values: pooling, constants of the normalisations, dropout, dtype and so on.
  """
  for name in [name for name, entry in model.items() if is_layer(entry)]:
    del model[name]
  model.layers = tuple(layers)
  model.update(layers)
  return model


def is_layer(entry: object) -> bool:
  """Returns whether an entry of `config.model` describes a layer."""
  return hasattr(entry, 'keys') and {'std', 'bias'} <= set(entry.keys())


def number(layer: str) -> str:
  """Returns the number in the name of a layer as a string: '3' for conv3, fc3 and local3."""
  return layer.lstrip(string.ascii_lowercase)


def is_local(layer: str) -> bool:
  """Returns whether the name is that of a locally connected layer."""
  return layer.startswith('local')


def is_dense(layer: str) -> bool:
  """Returns whether the name is that of a fully connected layer."""
  return layer.startswith('fc')


def operations(config: ConfigDict | FrozenConfigDict, layer: str) -> tuple[str, ...]:
  """Returns the operations that follow a layer of `config.model`: its `then`; none follow the last one."""
  return () if layer == config.layers[-1] else tuple(config[layer].then)


def first_dense(config: ConfigDict | FrozenConfigDict) -> str:
  """Returns the first fully connected layer of `config.model`, which is fc6 in the paper's network."""
  return next(filter(is_dense, config.layers))


def features_per_tower(features: int, width: float, towers: int) -> int:
  """Returns the features of one tower, at least 1, of a layer with `features` in all.

  Args:
    features: maps or units of all towers together.
    width: the width multiplier `config.model.width`.
    towers: number of towers.
  """
  return max(1, round(features * width / towers))
