"""Layers as data: what `config.model` says of each, and networks made of them."""

from collections.abc import Sequence

from ml_collections import ConfigDict

NO_PADDING = ((0, 0), (0, 0))


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
  """A convolutional layer, or a locally connected one; `features` counts the maps of all towers together."""
  return ConfigDict(
    {
      'features': features,  # maps of all towers together, before model.width
      'size': size,  # side of the kernel, in pixels
      'stride': stride,  # pixels between its places
      # Zeros around the maps: ((top, bottom), (left, right)).
      'padding': ((padding, padding), (padding, padding)) if isinstance(padding, int) else padding,
      'exchange': exchange,  # whether each tower sees the maps of all towers
      # what follows, in order: act, norm, map_norm, pool, avg_pool, dropout
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
  """A fully connected layer that sees all towers; `features` counts the units of all towers."""
  return ConfigDict(
    {
      'features': features,  # units of all towers together, before model.width
      'exchange': True,  # whether each tower sees the units, or maps, of all towers
      'then': tuple(then),  # what follows, in order: act, dropout
      'std': std,  # standard deviation of the initial weights
      'bias': bias,  # initial biases
    }
  )


def head(std: float = 0.01, bias: float = 0.0) -> ConfigDict:
  """The last layer: a logit a class."""
  return ConfigDict(
    {
      'std': std,  # standard deviation of the initial weights
      'bias': bias,  # initial biases
    }
  )


def replace_layers(model: ConfigDict, layers: dict[str, ConfigDict]) -> ConfigDict:
  """Makes `model` (`config.model`) a network of other layers, in their order; returns it.

  Everything that is not a layer stays: pools, constants of normalisation, dropout, dtype, ...
  """
  for name in [name for name, room in model.items() if is_layer(room)]:
    del model[name]
  model.layers = tuple(layers)
  model.update(layers)
  return model


def is_layer(room: object) -> bool:
  """Whether an entry of `config.model` describes a layer."""
  return hasattr(room, 'keys') and {'std', 'bias'} <= set(room.keys())
