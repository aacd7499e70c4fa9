"""Hypothesis strategies for broken image files, configs and other files."""

import functools
import io
import struct
import zlib

from hypothesis import strategies as st
import numpy as np
from PIL import Image

SIDE = 24  # the side of the canvases; images of this size are not scaled
MODES = {
  'PNG': ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16'),
  'JPEG': ('L', 'RGB', 'CMYK'),
  'GIF': ('L', 'P', 'RGB'),
  'BMP': ('1', 'L', 'RGB'),
  'WEBP': ('RGB', 'RGBA'),
  'TIFF': ('1', 'L', 'RGB', 'CMYK', 'I;16'),
}
SIZES = ((SIDE, SIDE), (1, 1), (1, 300), (300, 1), (40, 31))


@functools.cache
def encoded(form: str, mode: str, size: tuple[int, int], progressive: bool = False) -> bytes:
  """Returns the bytes of an image file, which depend only on the arguments."""
  width, height = size
  rng = np.random.default_rng(width * 1000 + height)
  if mode == 'I;16':
    image = Image.fromarray(rng.integers(0, 65536, (height, width), np.uint16))
  else:
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).convert(mode)
  file = io.BytesIO()
  options = {'WEBP': {'lossless': True}, 'JPEG': {'progressive': progressive}}.get(form, {})
  image.save(file, form, **options)
  return file.getvalue()


def valid_images() -> st.SearchStrategy:
  """Draws the arguments of `encoded`: (format, mode, size, whether the file is progressive)."""
  kinds = [(form, mode) for form, modes in MODES.items() for mode in modes]
  return st.tuples(st.sampled_from(kinds), st.sampled_from(SIZES), st.booleans()).map(
    lambda drawn: (*drawn[0], *drawn[1:])
  )


def edits() -> st.SearchStrategy:
  """Draws changes to a file: (kind, position as a share of its length, bytes)."""
  kinds = ('cut', 'overwrite', 'insert', 'remove', 'repeat', 'swap')
  some = st.binary(min_size=1, max_size=8)
  # Positions in headers are drawn more often, because readers allocate memory by their values.
  positions = st.one_of(st.floats(0, 1), st.floats(0, 0.1))
  return st.lists(st.tuples(st.sampled_from(kinds), positions, some), min_size=1, max_size=4)


def edited(data: bytes, changes: list) -> bytes:
  """Applies `edits` to `data`."""
  for kind, share, some in changes:
    i = min(int(share * len(data)), max(len(data) - 1, 0))
    if kind == 'cut':
      data = data[:i]
    elif kind == 'overwrite':
      data = data[:i] + some + data[i + len(some) :]
    elif kind == 'insert':
      data = data[:i] + some + data[i:]
    elif kind == 'remove':
      data = data[:i] + data[i + len(some) :]
    elif kind == 'repeat':
      data = data[:i] + data[i : i + 64] * len(some) + data[i:]
    else:
      data = data[i:] + data[:i]
  return data


def with_size(form: str, data: bytes, width: int, height: int) -> bytes:
  """Changes the size in the header of an image file, and corrects the checksum."""
  if form == 'PNG':
    chunk = b'IHDR' + struct.pack('>II', width, height) + data[24:29]
    return data[:12] + chunk + struct.pack('>I', zlib.crc32(chunk)) + data[33:]
  if form == 'GIF':
    return data[:6] + struct.pack('<HH', width & 0xFFFF, height & 0xFFFF) + data[10:]
  if form == 'BMP':
    return data[:18] + struct.pack('<ii', width & 0x7FFFFFFF, height & 0x7FFFFFFF) + data[26:]
  if form == 'JPEG':
    for marker in (b'\xff\xc0', b'\xff\xc2'):
      i = data.find(marker)
      if i > 0:
        return data[: i + 5] + struct.pack('>HH', height & 0xFFFF, width & 0xFFFF) + data[i + 9 :]
  return data


@functools.cache
def bomb(side: int) -> bytes:
  """Returns a small PNG file of side x side black pixels, which take far more memory when decoded."""
  row = zlib.compressobj(9)
  packed = b''.join(row.compress(bytes(1 + side * 3)) for _ in range(side)) + row.flush()

  def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))

  head = struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0)
  return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', packed) + chunk(b'IEND', b'')


# Values that a user or a script may give to any key.
_TEXTS = (
  '',
  'x',
  'None',
  'nan',
  '-inf',
  'true',
  '1,2',
  '()',
  '(1,)',
  '((0,0),)',
  '{}',
  '[]',
  '../..',
  'ü\n',
  '%s',
)
_NUMBERS = (
  '0',
  '-1',
  '1',
  '2',
  '3',
  '7',
  '0.5',
  '1e-30',
  '1e30',
  '99999999999999999999',
  '2147483648',
  '1000000',
)


def values() -> st.SearchStrategy:
  """Draws the value of a config key, as text."""
  drawn = st.one_of(
    st.integers(-3, 300).map(str), st.floats(width=32).map(repr), st.text(max_size=6)
  )
  return st.one_of(st.sampled_from(_TEXTS), st.sampled_from(_NUMBERS), drawn)


def config_lines(keys: list[str]) -> st.SearchStrategy:
  """Draws one to three flags `--config.KEY=VALUE`, some of which have unknown keys."""
  key = st.one_of(st.sampled_from(keys), st.sampled_from(keys), st.text(max_size=8))
  return st.lists(st.builds('--config.{}={}'.format, key, values()), min_size=1, max_size=3)
