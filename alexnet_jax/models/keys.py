"""The keys of `config.model`: their default values, meanings and allowed values, and the check of them."""

from collections.abc import Iterator
import itertools
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from alexnet_jax.errors import UserError
from alexnet_jax.models.spec import (
  MAX_OPERATIONS,
  NO_PADDING,
  is_dense,
  is_layer,
  number,
  operations,
)
from alexnet_jax.utils import schema
from alexnet_jax.utils.schema import Key, Schema

MAX_PIXELS = 8192  # Largest side of an image, a kernel or a padding.


def _pixels(default: int, meaning: str) -> Key:
  return Key(default, meaning, unit='pixels', minimum=1, maximum=MAX_PIXELS)


def _are_names(value: tuple) -> bool:
  return bool(value) and all(isinstance(name, str) for name in value)


def _is_padding(value: Any) -> bool:
  """Returns whether `value` is `((top, bottom), (left, right))` in pixels."""
  pairs = [side for side in value if isinstance(side, tuple | list) and len(side) == 2]
  return len(value) == len(pairs) == 2 and all(
    type(pixels) is int and 0 <= pixels <= MAX_PIXELS for side in pairs for pixels in side
  )


def _then(known: tuple[str, ...], meaning: str) -> Key:
  return Key(
    ('act',),
    f'The operations that follow the layer, in order: {meaning}.',
    valid=lambda value: (
      len(value) <= MAX_OPERATIONS and all(operation in known for operation in value)
    ),
    expected=f'a tuple of at most {MAX_OPERATIONS} of {", ".join(known)}',
  )


# The last layer has these two keys; every other layer has them too. The default values of the layers' keys
# are the arguments of `spec.conv`, `spec.fc` and `spec.head`; a default here only states the type.
HEAD: Schema = {
  'std': Key(
    0.01,
    'The standard deviation of the initial weights where model.init is `normal`.',
    minimum=0,
  ),
  'bias': Key(0.0, 'The initial value of all biases where model.init is `normal`.'),
}

# A fully connected layer (fc6, fc7, ...).
FC: Schema = {
  'features': Key(
    4096,
    'The number of output features of all towers together, before it is multiplied by model.width. '
    'The number of each tower is rounded to a whole number, at least 1.',
    minimum=1,
  ),
  'exchange': Key(
    True,
    'Whether each tower reads the outputs of all towers; where it is False, a tower reads only '
    'its own.',
  ),
  'then': _then(
    ('act', 'norm', 'dropout'),
    '`act` applies model.activation, `norm` the normalisation that model.norm names, and '
    '`dropout` dropout',
  ),
  **HEAD,
}

# A convolutional layer (conv1, conv2, ...) or a locally connected layer (local3, ...).
CONV: Schema = {
  **FC,
  'size': _pixels(3, 'The side of the kernel.'),
  'stride': _pixels(1, 'The distance between neighbouring positions of the kernel.'),
  'padding': Key(
    NO_PADDING,
    'The numbers of rows and columns of zeros around the input: ((top, bottom), (left, right)).',
    valid=_is_padding,
    expected=f'((top, bottom), (left, right)) in pixels, whole numbers from 0 to {MAX_PIXELS}',
  ),
  'then': _then(
    ('act', 'norm', 'map_norm', 'pool', 'dropout', 'avg_pool'),
    '`act` applies model.activation, `norm` the normalisation that model.norm names, `map_norm` '
    'the normalisation within each map, `pool` maximum pooling, `avg_pool` average pooling, and '
    '`dropout` dropout',
  ),
}


def layer_keys(name: str, entry: Any) -> Schema:
  """Returns the keys of the layer `name` that `entry` of `config.model` describes."""
  if 'features' not in entry:
    return HEAD
  return FC if name.startswith('fc') else CONV


_LRN = 'Local response normalisation divides x by (k + alpha * sum x^2)^beta.'
_MAP_NORM = 'Normalisation within a map divides x by (k + alpha * sum x^2)^beta.'

# The keys of `config.model` that belong to no layer.
MODEL: Schema = {
  'name': Key(
    'alexnet',
    'The name of the network in messages and reports.',
    choices=('alexnet', 'cifar10', 'lenet5'),
  ),
  'num_classes': Key(
    0,
    'The number of classes. 0 takes the number of the data source, or 1000 where no data is read '
    '(alexnet_jax.create and --mode=describe).',
    valid=lambda number: number == 0 or 2 <= number <= schema.LARGEST,
    expected='0, for the number of classes of the data source, or a whole number of at least 2',
  ),
  'input_size': _pixels(224, 'The side of the square image that the network reads.'),
  'gray': Key(
    False,
    'Whether the network reads one channel, the mean of red, green and blue, instead of three.',
  ),
  'towers': Key(
    2,
    'The number of towers, which are parallel columns of layers. A tower reads another tower '
    'only in layers whose key `exchange` is True.',
    choices=(1, 2),
  ),
  'width': Key(
    1.0,
    'A factor that multiplies the number of features of every layer but the last.',
    above=0,
    maximum=1024,
  ),
  'dtype': Key(
    'float32',
    'The floating-point type of activations. Parameters and the last layer are always float32.',
    choices=('float32', 'bfloat16'),
  ),
  'activation': Key(
    'relu',
    'The activation function. `scaled_tanh` is 1.7159 tanh(2x/3), the function of LeNet-5.',
    choices=('relu', 'tanh', 'scaled_tanh'),
  ),
  'norm': Key(
    'lrn',
    'What the operation `norm` of a layer does: `lrn` is local response normalisation, `batch` '
    'is batch normalisation, and `none` does nothing. The operation `map_norm` takes effect only '
    'with `lrn`.',
    choices=('lrn', 'batch', 'none'),
  ),
  'init': Key(
    'normal',
    'How parameters are initialised: `normal` draws weights with the standard deviation `std` of '
    'each layer and sets biases to its `bias`; `torch` uses the default of PyTorch, a uniform '
    'distribution whose width depends on the number of inputs.',
    choices=('normal', 'torch'),
  ),
  'layers': Key(
    ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7', 'fc8'),
    'The names of the layers of the network, in order. A group of keys of each name describes '
    'the layer.',
    valid=_are_names,
    expected="a tuple of names of layers, written \"('conv1', 'fc8')\" on the command line",
  ),
  'pool': {
    'window': _pixels(3, 'The side of the window of maximum and average pooling.'),
    'stride': _pixels(2, 'The distance between neighbouring pooling windows.'),
    'rounding': Key(
      'ceil',
      'How the size of the pooled output is rounded: `ceil` as in the original 2012 code and '
      'Caffe, `floor` as in torchvision.',
      choices=('ceil', 'floor'),
    ),
  },
  'lrn': {
    'size': Key(
      5,
      f'{_LRN} `size` is the number of neighbouring maps in the sum.',
      unit='maps',
      minimum=1,
      maximum=MAX_PIXELS,
    ),
    'k': Key(2.0, f'{_LRN} `k` is the constant of the sum.', above=0),
    'alpha': Key(1e-4, f'{_LRN} `alpha` is the weight of the sum of squares.', minimum=0),
    'beta': Key(0.75, f'{_LRN} `beta` is the exponent.'),
    'divide': Key(
      False,
      'Whether alpha of local response normalisation is divided by `size` first, as in '
      'cuda-convnet and Caffe.',
    ),
    'scope': Key(
      'tower',
      'Whether local response normalisation sums over the maps of one tower (`tower`) or over '
      'those of all towers (`all`).',
      choices=('tower', 'all'),
    ),
  },
  'map_norm': {
    'size': _pixels(5, f'{_MAP_NORM} The sum covers size x size pixels of the same map.'),
    'k': Key(1.0, f'{_MAP_NORM} `k` is the constant of the sum.', above=0),
    'alpha': Key(
      4e-5,
      f'{_MAP_NORM} `alpha` is the weight of the sum of squares; the default is 1e-3 / 25, the '
      'value of the original 2012 code.',
      minimum=0,
    ),
    'beta': Key(0.75, f'{_MAP_NORM} `beta` is the exponent.'),
  },
  'batch_norm': {
    'momentum': Key(
      0.9,
      'The share that the running mean and variance of batch normalisation keep at each step.',
      minimum=0,
      maximum=1,
    ),
    'epsilon': Key(1e-5, 'The constant that batch normalisation adds to the variance.', minimum=0),
  },
  'dropout': {
    'rate': Key(
      0.5, 'The share of activations that dropout sets to 0 in training.', minimum=0, below=1
    ),
    'inverted': Key(
      False,
      'Whether dropout scales the remaining activations up in training, as Caffe and torchvision '
      'do. Where it is False, activations are scaled down in evaluation, as in the paper.',
    ),
  },
}


def flatten(config: ConfigDict | FrozenConfigDict) -> Iterator[tuple[str, Key]]:
  """Yields the declaration of each key of `config.model`, those of its layers included, by dotted name."""
  yield from schema.flatten(MODEL)
  for name, entry in config.items():
    if is_layer(entry):
      yield from schema.flatten(layer_keys(name, entry), f'{name}.')


def validate(config: ConfigDict | FrozenConfigDict) -> None:
  """Checks `config.model`.

  Raises:
    UserError: a key is missing or not allowed, or `layers` names a layer that is not described.
  """
  schema.check(config, MODEL, 'config.model')
  for name in config.layers:
    if name not in config or not is_layer(config[name]):
      raise UserError(
        f'config.model.layers names {name!r}, but config.model does not describe that layer: '
        'describe it, or leave it out'
      )
    if name != config.layers[-1] and 'features' not in config[name]:
      raise UserError(f'config.model.{name} has no features: only the last layer may go without')
  _check_order(config)
  for name, entry in config.items():
    if is_layer(entry):
      schema.check(entry, layer_keys(name, entry), f'config.model.{name}')


def _check_order(config: ConfigDict | FrozenConfigDict) -> None:
  """Checks that no layer is repeated, follows a layer that it cannot follow, or shares a name."""
  layers, numbers = config.layers, [number(name) for name in config.layers]
  if repeated := [name for k, name in enumerate(layers) if name in layers[:k]]:
    raise UserError(f'config.model.layers names {repeated[0]!r} twice: name each layer once')
  for before, after in itertools.pairwise(layers):
    if is_dense(before) and not is_dense(after):
      raise UserError(
        f'config.model.layers: {after} cannot follow {before}, whose outputs have no rows and columns: '
        'put the fully connected layers last'
      )
  for name in layers:
    norms = operations(config, name).count('norm') if config.norm == 'batch' else 0
    if norms > 1 or (norms and numbers.count(number(name)) > 1):
      raise UserError(
        f'config.model.{name}.then={config[name].then}: batch normalisation can follow a layer once, and '
        'only if no other layer has the same number'
      )
