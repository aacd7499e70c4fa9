"""Writes files in Caffe's formats byte by byte, from the public field numbers of caffe.proto.

The writer is independent of the reader: it imports nothing from `alexnet_jax.interop.caffe`.
"""

import numpy as np

_BYTES = 2  # the wire type of strings, messages and packed numbers


def varint(value: int) -> bytes:
  """Encodes a base-128 varint."""
  out = b''
  while value > 127:
    out, value = out + bytes([value & 127 | 128]), value >> 7
  return out + bytes([value])


def field(number: int, payload: bytes | str | int) -> bytes:
  """Encodes one field: a number as a varint, and any other payload with its length before it."""
  if isinstance(payload, int):
    return varint(number << 3) + varint(payload)
  payload = payload.encode() if isinstance(payload, str) else payload
  return varint(number << 3 | _BYTES) + varint(len(payload)) + payload


def blob(array: np.ndarray, old: bool = False, double: bool = False) -> bytes:
  """Encodes a BlobProto: shape = 7 {dim = 1}, or num ... width = 1 ... 4; data = 5, double_data = 8."""
  if old:
    shape = (1,) * (4 - array.ndim) + array.shape
    head = b''.join(field(i + 1, n) for i, n in enumerate(shape))
  else:
    head = field(7, field(1, b''.join(map(varint, array.shape))))
  data = (
    field(8, array.astype('<f8').tobytes()) if double else field(5, array.astype('<f4').tobytes())
  )
  return head + data


def caffemodel(
  layers: dict[str, list[np.ndarray]], generation: str = 'V2', double: bool = False
) -> bytes:
  """Encodes a NetParameter: name = 1, and layer = 100 (V2), layers = 2 (V1) or layers.layer = 1 (V0).

  Args:
    layers: weight and bias of each layer, in the order of the network; empty for a layer without parameters.
    generation: V2 (name 1, type 2, blobs 7), V1 (name 4, type 5, blobs 6) or V0 (name 1, type 2, blobs 50).
    double: whether the numbers are written in double precision.
  """
  out = field(1, 'AlexNet')
  for name, arrays in layers.items():
    blobs = [blob(array, generation != 'V2', double) for array in arrays]
    if generation == 'V2':
      body = field(1, name) + field(2, 'Some') + b''.join(field(7, b) for b in blobs)
      out += field(100, body)
    elif generation == 'V1':
      out += field(
        2, field(2, 'below') + field(4, name) + field(5, 4) + b''.join(field(6, b) for b in blobs)
      )
    else:
      old = field(1, name) + field(2, 'conv') + b''.join(field(50, b) for b in blobs)
      out += field(2, field(1, old))
  return out
