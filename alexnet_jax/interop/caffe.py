"""Caffe: reads a .caffemodel of BVLC AlexNet or CaffeNet as our parameters (recipe `caffe`).

The protobuf library reads the file with the part of caffe.proto that is declared below, from its public
field numbers. It covers all three generations of the format: `layer` (2015), `layers` (V1, the released
AlexNet) and `layers.layer` (V0, the released CaffeNet). Sources: BVLC/caffe
src/caffe/proto/caffe.proto; docs/FACTS.md, sections 1 and 3.
"""

import functools
import math
import os
from typing import Any, NamedTuple

from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np

from alexnet_jax.config import recipes
from alexnet_jax.errors import UserError
from alexnet_jax.interop import layout
from alexnet_jax.workdir import archive

# For each message its fields: (name, number, type). A type in camel case is another message. All fields are
# declared as repeated, which reads single fields as well. Packed numbers have the wire format of bytes and
# are declared so, because NumPy reads bytes without a copy for each number.
_SCHEMA = {
  'BlobShape': (('dim', 1, 'int64'),),
  'BlobProto': (
    ('shape', 7, 'BlobShape'),
    ('data', 5, 'bytes'),  # packed float
    ('double_data', 8, 'bytes'),  # packed double
    ('num', 1, 'int64'),  # older files give the four dimensions in place of `shape`
    ('channels', 2, 'int64'),
    ('height', 3, 'int64'),
    ('width', 4, 'int64'),
  ),
  'LayerParameter': (('name', 1, 'string'), ('blobs', 7, 'BlobProto')),
  'V1LayerParameter': (
    ('name', 4, 'string'),
    ('blobs', 6, 'BlobProto'),
    ('layer', 1, 'V0LayerParameter'),
  ),
  'V0LayerParameter': (('name', 1, 'string'), ('blobs', 50, 'BlobProto')),
  'NetParameter': (
    ('name', 1, 'string'),
    ('layer', 100, 'LayerParameter'),
    ('layers', 2, 'V1LayerParameter'),
  ),
}


class Net(NamedTuple):
  """The content of a .caffemodel.

  Attributes:
    blobs: for each layer that has parameters, weight and bias, float32, in Caffe's layout.
    order: the names of all layers, in order, including those without parameters.
  """

  blobs: dict[str, list[np.ndarray]]
  order: tuple[str, ...]


@functools.cache
def _messages() -> dict[str, Any]:
  """Returns the message classes of `_SCHEMA`, which the protobuf library makes."""
  from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

  field_type = descriptor_pb2.FieldDescriptorProto
  file = descriptor_pb2.FileDescriptorProto(
    name='alexnet_jax/caffe.proto', package='alexnet_jax.caffe'
  )
  for message, fields in _SCHEMA.items():
    described = file.message_type.add(name=message)
    for name, number, kind in fields:
      field = described.field.add(name=name, number=number, label=field_type.LABEL_REPEATED)
      if kind in _SCHEMA:
        field.type, field.type_name = field_type.TYPE_MESSAGE, f'.{file.package}.{kind}'
      else:
        field.type = getattr(field_type, f'TYPE_{kind.upper()}')
  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  return {
    name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f'{file.package}.{name}'))
    for name in _SCHEMA
  }


def _parse(path: str, message: str) -> Any:
  """Reads the message in a file.

  Raises:
    UserError: the file is missing, truncated or in another format.
  """
  from google.protobuf.message import DecodeError

  try:
    with open(path, 'rb') as file:
      data = file.read()
  except OSError as error:
    raise UserError(f'{path} cannot be read ({error.strerror}): name another file') from None
  if data[:4] == b'\x89HDF':
    raise UserError(
      f'{path} is in HDF5 format: let Caffe write it as a .caffemodel in protobuf format'
    )
  try:
    return _messages()[message].FromString(data)
  except DecodeError:
    raise UserError(
      f'{path} ({len(data):,} bytes) is truncated, or not in the protobuf format of Caffe: download it again'
    ) from None


def _last(values, default):
  """Returns the value of a single field, which protobuf says is the last one, or the default."""
  return values[-1] if values else default


def _array(blob, what: str) -> np.ndarray:
  """Returns a BlobProto as a float32 array in its own shape."""
  shape = tuple(_last(blob.shape, _messages()['BlobShape']()).dim)
  if not blob.shape:
    shape = tuple(_last(n, 0) for n in (blob.num, blob.channels, blob.height, blob.width))
  kind, chunks = ('<f8', blob.double_data) if blob.double_data else ('<f4', blob.data)
  data = b''.join(chunks)
  values, rest = divmod(len(data), np.dtype(kind).itemsize)
  if rest or values != math.prod(shape) or min(shape, default=0) < 0:
    raise UserError(f'{what} has {values} values for shape {list(shape)}: download the file again')
  return np.frombuffer(data, kind).astype(np.float32).reshape(shape)


def read(path: str) -> Net:
  """Reads a .caffemodel.

  Raises:
    UserError: the file is missing, truncated or not in Caffe's format.
  """
  net = _parse(path, 'NetParameter')
  blobs, order = {}, []
  for layer in (*net.layer, *net.layers):
    layer = _last(getattr(layer, 'layer', ()), layer)  # V1 contains V0
    name = _last(layer.name, '')
    order.append(name)
    if layer.blobs:
      blobs[name] = [_array(blob, f'{path}: {name}') for blob in layer.blobs]
  return Net(blobs, tuple(order))


def recipe_of(net: Net, what: str = 'the .caffemodel') -> str:
  """Returns the recipe of a network, which the order of its layers without parameters decides.

  It is `caffe` where LRN comes before pooling, `caffe+caffenet` where pooling comes first, and
  `caffe+no_norm` without LRN. For a file that lists only layers with parameters, it is `caffe`.

  Args:
    net: the network.
    what: the name of the file, for messages.

  Raises:
    UserError: the order is none of these.
  """
  without = [name for name in net.order if name not in net.blobs]
  if not without:
    return 'caffe'
  between = tuple(name for name in without if name in ('norm1', 'pool1', 'norm2', 'pool2'))
  known = {
    ('norm1', 'pool1', 'norm2', 'pool2'): 'caffe',
    ('pool1', 'norm1', 'pool2', 'norm2'): 'caffe+caffenet',
  }
  if between in known:
    return known[between]
  if not any('norm' in name or 'lrn' in name for name in map(str.lower, without)):
    return 'caffe+no_norm'
  raise UserError(
    f'{what} has its layers in an order that is neither that of AlexNet nor that of CaffeNet '
    f'({", ".join(net.order)}): convert it to a state_dict, and use --format=pytorch'
  )


def from_caffe(path: str | os.PathLike, model: ConfigDict | FrozenConfigDict | None = None) -> dict:
  """Reads a .caffemodel of BVLC AlexNet or CaffeNet as our parameters.

  Groups become towers. The input channels of conv1 are reversed, so the network takes RGB where Caffe's takes
  BGR. The inputs of fc6 are permuted from Caffe's (C, H, W) to our order. A last layer with another name, as
  fine-tuned networks have (`fc8_flickr`), is read as fc8.

  Args:
    path: the file.
    model: `config.model`; by default that of the recipe that `recipe_of` finds. With `num_classes` 0 the
      number of classes is that of the file.

  Returns:
    float32 NumPy arrays, `params[layer]['kernel' | 'bias']`.

  Raises:
    UserError: the file cannot be read, or shapes differ from those of the network. The message lists them.
  """
  path = os.fspath(path)
  net = read(path)
  blobs, own = dict(net.blobs), recipes.get(recipe_of(net, path)).model
  model = ConfigDict((model or own).to_dict())
  layout.check_same_function(model, own, path)
  renamed = [name for name in blobs if name.startswith('fc8')]
  if 'fc8' not in blobs and len(renamed) == 1:
    blobs['fc8'] = blobs.pop(renamed[0])
  if not model.num_classes and len(blobs.get('fc8', ())) == 2 and blobs['fc8'][1].size > 1:
    model.num_classes = blobs['fc8'][1].size
  planar, found, expected = {}, {}, {}
  for layer, shapes in layout.planar_shapes(model).items():
    planar[layer] = {}
    for (name, shape), blob in zip(shapes.items(), blobs.get(layer, ()), strict=False):
      planar[layer][name] = _without_ones(blob, len(shape))
    expected |= {f'{layer} {name}': shape for name, shape in shapes.items()}
    found |= {f'{layer} {name}': blob.shape for name, blob in planar[layer].items()}
  found |= {name: b[0].shape for name, b in blobs.items() if name not in planar}
  classes = model.num_classes or 1000
  archive.check_shapes(expected, found, path, f"Caffe's AlexNet or CaffeNet of {classes} classes")
  planar['conv1']['weight'] = planar['conv1']['weight'][:, ::-1]
  return layout.from_planar(planar, model)


def _without_ones(blob: np.ndarray, rank: int) -> np.ndarray:
  """Removes leading dimensions of size one, which older files have, until the rank is `rank`."""
  while blob.ndim > rank and blob.shape[0] == 1:
    blob = blob[0]
  return blob


def read_mean(path: str, channels: str = 'bgr') -> np.ndarray:
  """Reads a mean image such as `imagenet_mean.binaryproto`.

  Args:
    path: the file, which holds `[1, 3, H, W]`.
    channels: the order of its channels, bgr or rgb.

  Returns:
    float32 `[H, W, 3]`, RGB.

  Raises:
    UserError: the file cannot be read or does not hold a colour image.
  """
  mean = _without_ones(_array(_parse(path, 'BlobProto'), path), 3)
  if mean.ndim != 3 or len(mean) != 3:
    raise UserError(
      f'{path} holds an array {list(mean.shape)}, not a mean image [1, 3, H, W]: name another file'
    )
  rgb = mean if channels == 'rgb' else mean[::-1]
  return np.array(rgb.transpose(1, 2, 0), order='C')
