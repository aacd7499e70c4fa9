"""Caffe's BVLC AlexNet and CaffeNet: a .caffemodel to our parameters (recipe `caffe`).

The part of caffe.proto that is needed is described below, from its public field numbers, and read by the
protobuf library. All three generations of the format are: `layer` (2015), `layers` (V1, the released
AlexNet) and `layers.layer` (V0, the released CaffeNet). Sources: BVLC/caffe src/caffe/proto/caffe.proto;
FACTS sections 1 and 3 (K).
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

# message: (field, number, type); a type in capitals is another message; all fields are repeated, which
# reads single ones as well. A packed field has the wire form of bytes, and as bytes it is an array at once.
_SCHEMA = {
  'BlobShape': (('dim', 1, 'int64'),),
  'BlobProto': (
    ('shape', 7, 'BlobShape'),
    ('data', 5, 'bytes'),  # packed float
    ('double_data', 8, 'bytes'),  # packed double
    ('num', 1, 'int64'),  # the four dimensions of before there was `shape`
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
  """A .caffemodel as it lies there.

  Attributes:
    blobs: of each layer that has some, weight and bias, float32, in Caffe's layout.
    order: the names of all layers, those without blobs too.
  """

  blobs: dict[str, list[np.ndarray]]
  order: tuple[str, ...]


@functools.cache
def _messages() -> dict[str, Any]:
  """The message classes of `_SCHEMA`, made by the protobuf library."""
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
  """The message that a file holds.

  Raises:
    UserError: there is no such file, or it is cut off or of another format.
  """
  from google.protobuf.message import DecodeError

  try:
    with open(path, 'rb') as file:
      data = file.read()
  except OSError as error:
    raise UserError(f'{path} cannot be read ({error.strerror}): name another file') from None
  if data[:4] == b'\x89HDF':
    raise UserError(f'{path} is in HDF5: have Caffe write it as a .caffemodel in protobuf format')
  try:
    return _messages()[message].FromString(data)
  except DecodeError:
    raise UserError(
      f'{path} ({len(data):,} bytes) is cut off, or not in the protobuf format of Caffe: fetch it again'
    ) from None


def _last(values, default):
  return values[-1] if values else default


def _array(blob, what: str) -> np.ndarray:
  """A BlobProto as float32 in its own shape."""
  shape = tuple(_last(blob.shape, _messages()['BlobShape']()).dim)
  if not blob.shape:
    shape = tuple(_last(n, 0) for n in (blob.num, blob.channels, blob.height, blob.width))
  kind, chunks = ('<f8', blob.double_data) if blob.double_data else ('<f4', blob.data)
  values = np.frombuffer(b''.join(chunks), kind)
  if values.size != math.prod(shape):
    raise UserError(
      f'{what} has {values.size} values for shape {list(shape)}: fetch the file again'
    )
  return values.astype(np.float32).reshape(shape)


def read(path: str) -> Net:
  """Reads a .caffemodel.

  Raises:
    UserError: it is missing, cut off or not in Caffe's format.
  """
  net = _parse(path, 'NetParameter')
  blobs, order = {}, []
  for layer in (*net.layer, *net.layers):
    layer = _last(getattr(layer, 'layer', ()), layer)  # V0 lies in V1
    name = _last(layer.name, '')
    order.append(name)
    if layer.blobs:
      blobs[name] = [_array(blob, f'{path}: {name}') for blob in layer.blobs]
  return Net(blobs, tuple(order))


def recipe_of(net: Net) -> str:
  """The recipe that a network was made for: `caffe`, or `caffe+caffenet` with pooling before LRN."""
  order = net.order
  pooled_first = all(
    {f'pool{i}', f'norm{i}'} <= set(order) and order.index(f'pool{i}') < order.index(f'norm{i}')
    for i in (1, 2)
  )
  return 'caffe+caffenet' if pooled_first else 'caffe'


def from_caffe(path: str | os.PathLike, model: ConfigDict | FrozenConfigDict | None = None) -> dict:
  """Our parameters of a .caffemodel of BVLC AlexNet or CaffeNet.

  Groups become towers, conv1's input channels are turned from BGR to RGB, so that the network takes RGB, and
  fc6 is permuted from Caffe's (C, H, W) to ours. A last layer of another name, as fine-tuning makes
  (`fc8_flickr`), is taken for fc8.

  Args:
    path: of the file.
    model: `config.model`; if left out, what the order of the layers in the file says. With `num_classes`
      0 it has as many as the file.

  Returns:
    float32 NumPy arrays, `params[layer]['kernel' | 'bias']`.

  Raises:
    UserError: the file cannot be read, or the shapes are not those of the network; the message lists them.
  """
  path = os.fspath(path)
  net = read(path)
  blobs, own = dict(net.blobs), recipes.get(recipe_of(net)).model
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
  layout.check_shapes(expected, found, path, f"Caffe's AlexNet or CaffeNet of {classes} classes")
  planar['conv1']['weight'] = planar['conv1']['weight'][:, ::-1]
  return layout.from_planar(planar, model.towers)


def _without_ones(blob: np.ndarray, rank: int) -> np.ndarray:
  """A blob of old, `[1, 1, O, I]` or `[1, 1, 1, O]`, without the leading ones that `rank` has no room for."""
  while blob.ndim > rank and blob.shape[0] == 1:
    blob = blob[0]
  return blob


def read_mean(path: str, channels: str = 'bgr') -> np.ndarray:
  """A mean image, `imagenet_mean.binaryproto`: `[1, 3, H, W]` there, RGB float32 `[H, W, 3]` here.

  Args:
    path: of the file.
    channels: their order in the file, bgr or rgb.

  Raises:
    UserError: it cannot be read, or is no colour image.
  """
  mean = _without_ones(_array(_parse(path, 'BlobProto'), path), 3)
  if mean.ndim != 3 or len(mean) != 3:
    raise UserError(
      f'{path} holds an array {list(mean.shape)}, not a mean image [1, 3, H, W]: name another file'
    )
  rgb = mean if channels == 'rgb' else mean[::-1]
  return np.array(rgb.transpose(1, 2, 0), order='C')
