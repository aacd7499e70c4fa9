"""From the bytes of an image to the uint8 canvas that the device crops (FACTS §3).

The paper scales the short side to 256 and keeps the central 256x256; Caffe warps the whole image
to 256x256; the "no_crop" data of the original code pastes the whole image into the canvas. All
three are Pillow's antialiased resize told which box of the image to read, so that nothing larger
than the image or the canvas is made, however long and thin the image.
"""

import io
import math
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from alexnet_jax.errors import UserError

try:
  import simplejpeg
except ImportError:  # It gives Pillow's pixels about 1.5 times as fast; Pillow serves as well.
  simplejpeg = None

FITS = ('crop', 'warp', 'pad')
FILTERS = ('bicubic', 'bilinear', 'box', 'hamming', 'lanczos')
# Pillow opens more, some of it by other programs (EPS by Ghostscript): not files of strangers.
_FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'TIFF', 'WEBP')
_PAD_LEVEL = 128  # mid-gray; the original pasted on the mean image, which is not known here yet


class Canvas(NamedTuple):
  """How an image becomes a canvas.

  Attributes:
    size: side S of the square canvas in pixels (paper §2: 256).
    fit: `crop` (short side to S, centre crop; paper §2), `warp` (straight to S x S; Caffe) or
      `pad` (long side to S, centred on mid-gray; close to "no_crop" of FACTS §3).
    filter: Pillow's antialiased filter, one of `FILTERS`.
    max_pixels: an image of more pixels (width x height) than this is refused before it is decoded,
      as is one whose scaling would need a larger intermediate. The default is Pillow's own limit.
  """

  size: int = 256
  fit: str = 'crop'
  filter: str = 'bicubic'
  max_pixels: int = 89_478_485

  @classmethod
  def from_config(cls, config: Any) -> 'Canvas':
    """Checks `config.data.canvas` (any mapping of some of the fields).

    Raises:
      UserError: a field is unknown or has a value that cannot be meant.
    """
    values = dict(config)
    unknown = sorted(set(values) - set(cls._fields))
    if unknown:
      fields = ', '.join(cls._fields)
      raise UserError(f'config.data.canvas has no field {unknown[0]!r}; it has {fields}')
    canvas = cls(**values)
    for field, value in canvas._asdict().items():
      known = {'fit': FITS, 'filter': FILTERS}.get(field)
      if known and value not in known:
        raise UserError(f'config.data.canvas.{field}={value!r}: use one of {", ".join(known)}')
      if not known and not (isinstance(value, int) and value > 0):
        raise UserError(f'config.data.canvas.{field}={value!r}: use an integer above 0')
    return canvas


_DEFAULT = Canvas()


def decode_canvas(
  source: bytes | np.ndarray, canvas: Any = _DEFAULT, notes: list[str] | None = None
) -> np.ndarray:
  """Decodes one image and fits it to the canvas.

  JPEG (gray, RGB, CMYK and YCCK), PNG, GIF (first frame), BMP, WebP and TIFF are read. Transparency
  is composited on white, 16-bit gray is scaled to 8 bits, and the EXIF orientation is ignored, as
  in 2012. simplejpeg, where installed, gives the very pixels that Pillow gives.

  Args:
    source: an encoded image, or uint8 pixels [H, W], [H, W, 1] or [H, W, 3] (RGB).
    canvas: a `Canvas`, or anything with its four attributes.
    notes: gets a line for each thing that had to be repaired or converted.

  Returns:
    RGB, uint8 [S, S, 3].

  Raises:
    ValueError: the image is broken, truncated, too large or of no known format.
  """
  notes = [] if notes is None else notes
  try:
    image = (
      _from_array(source) if isinstance(source, np.ndarray) else _decode(source, canvas, notes)
    )
    _check_pixels(*image.size, canvas)
    image = _fit(image, canvas)
    return np.asarray(image if image.mode == 'RGB' else image.convert('RGB'))
  except ValueError:
    raise
  except Exception as error:  # Pillow's readers raise anything at all on broken files.
    raise ValueError(f'{type(error).__name__}: {error}') from error


def _check_pixels(width: int, height: int, canvas: Any) -> None:
  if not 0 < width * height <= canvas.max_pixels:
    raise ValueError(f'{width}x{height} pixels; the limit is {canvas.max_pixels} in all')


def _from_array(pixels: np.ndarray) -> Image.Image:
  """uint8 [H, W], [H, W, 1] or [H, W, 3] as a Pillow image."""
  if pixels.ndim == 3 and pixels.shape[2] == 1:
    pixels = pixels[:, :, 0]
  if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
    raise ValueError(f'pixels are {pixels.dtype} {list(pixels.shape)}, not uint8 [H, W(, 1 or 3)]')
  return Image.fromarray(np.ascontiguousarray(pixels))


def encode_jpeg(image: np.ndarray, quality: int, subsampling: str) -> bytes:
  """A canvas, uint8 [S, S, 3], as JPEG; subsampling of the colours is 444, 422 or 420."""
  if simplejpeg is not None:
    image = np.ascontiguousarray(image)
    return simplejpeg.encode_jpeg(image, quality, 'RGB', subsampling, fastdct=False)
  file = io.BytesIO()
  Image.fromarray(image).save(file, 'JPEG', quality=quality, subsampling=':'.join(subsampling))
  return file.getvalue()


def decode_stored(data: bytes | np.ndarray, out: np.ndarray) -> None:
  """Decodes a JPEG that `encode_jpeg` made, as bytes or uint8 [n], into `out`, uint8 [S, S, 3].

  Raises:
    ValueError: it is broken or of another size.
  """
  if simplejpeg is not None:
    if simplejpeg.decode_jpeg_header(data)[:2] != out.shape[:2]:
      raise ValueError(f'the stored image is not of {out.shape[0]}x{out.shape[1]} pixels')
    simplejpeg.decode_jpeg(data, 'RGB', buffer=out)
    return
  try:
    with Image.open(io.BytesIO(data), formats=('JPEG',)) as image:
      out[...] = np.asarray(image)
  except (OSError, SyntaxError) as error:
    raise ValueError(str(error)) from error


def _decode(data: bytes, canvas: Any, notes: list[str]) -> Image.Image:
  """An encoded image as a Pillow image of mode L or RGB; its size is checked on the header."""
  if simplejpeg is not None and data[:2] == b'\xff\xd8':
    try:
      height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
      if colors in ('Gray', 'YCbCr') and 0 < width * height <= canvas.max_pixels:
        mode = 'GRAY' if colors == 'Gray' else 'RGB'
        return _from_array(simplejpeg.decode_jpeg(data, mode))
    except ValueError as error:
      # It refuses small faults that Pillow forgives. Pillow has the last word on every file.
      notes.append(f'small faults were passed over ({error})')
  try:
    image = Image.open(io.BytesIO(data), formats=_FORMATS)
  except UnidentifiedImageError as error:  # its own message is an address in memory
    raise ValueError(f'not an image of a known format ({", ".join(_FORMATS)})') from error
  with image:
    _check_pixels(*image.size, canvas)
    if getattr(image, 'is_animated', False):
      notes.append(f'animated {image.format}: the first frame was used')
    return _to_gray_or_rgb(image, notes)


def _to_gray_or_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
  """Decodes a Pillow image of any mode into mode L (uint8 [H, W]) or RGB (uint8 [H, W, 3])."""
  if image.mode == 'CMYK':
    notes.append('CMYK was converted to RGB')
  if image.mode.startswith('I') or ';16' in str([part.args for part in image.tile]):
    notes.append('16 bits a channel were scaled to 8')
  if image.mode.startswith('I;16') or (image.mode == 'I' and image.format == 'PNG'):
    # Pillow's own conversion clips at 255, which leaves a white image.
    return Image.fromarray(np.round(np.asarray(image, np.float32) / 257).astype(np.uint8))
  if image.mode in ('I', 'F'):
    raise ValueError(f'pixels of mode {image.mode} have no defined range')
  if image.has_transparency_data:
    notes.append('transparent parts were put on white')
    image = image.convert('RGBA')
    opaque = Image.new('RGB', image.size, 'white')
    opaque.paste(image, mask=image)
    return opaque
  if image.mode in ('L', 'RGB'):
    image.load()
    return image.copy() if image.format == 'GIF' else image
  return image.convert('L' if image.mode == '1' else 'RGB')


def _fit(image: Image.Image, canvas: Any) -> Image.Image:
  """Scales an image of mode L or RGB to S x S as `canvas.fit` says."""
  size, (width, height) = canvas.size, image.size
  if canvas.fit == 'warp':
    return _resize(image, (size, size), (0, 0, width, height), canvas)
  if canvas.fit == 'pad':
    new_width, new_height = _scaled(width, height, size, max(width, height))
    scaled = _resize(image, (new_width, new_height), (0, 0, width, height), canvas)
    result = Image.new(image.mode, (size, size), (_PAD_LEVEL,) * len(image.getbands()))
    result.paste(scaled, ((size - new_width) // 2, (size - new_height) // 2))
    return result
  # The part of the image that the centre crop keeps, in the image's own coordinates. The filter
  # sees beyond the box, so the pixels are those of scaling the whole image and then cropping.
  new_width, new_height = _scaled(width, height, size, min(width, height))
  left, top = (new_width - size) // 2, (new_height - size) // 2
  x, y = width / new_width, height / new_height
  box = (left * x, top * y, min((left + size) * x, width), min((top + size) * y, height))
  return _resize(image, (size, size), box, canvas)


def _resize(image: Image.Image, size: tuple[int, int], box: tuple[float, ...], canvas: Any):
  """Scales `box` = (left, top, right, bottom) of an image to `size`, along the rows first.

  Pillow 13 picks the order of its two passes by cost, older ones always go along the rows; as the
  pixels between the passes are rounded and clipped, we fix the order to get the same from all.
  """
  resample = Image.Resampling[canvas.filter.upper()]
  left, top, right, bottom = box
  margin = 3 * math.ceil(max(1, (bottom - top) / size[1])) + 1  # the widest filter's reach is 3
  first = max(0, math.floor(top) - margin)
  last = min(image.height, math.ceil(bottom) + margin)
  _check_pixels(size[0], last - first, canvas)
  if last - first < image.height:
    image = image.crop((0, first, image.width, last))
  image = image.resize((size[0], last - first), resample, box=(left, 0, right, last - first))
  return image.resize(size, resample, box=(0, top - first, size[0], bottom - first))


def _scaled(width: int, height: int, size: int, side: int) -> tuple[int, int]:
  """Width and height after scaling `side` to `size`, rounded half up, at least 1 pixel."""
  return tuple(max(1, (2 * length * size + side) // (2 * side)) for length in (width, height))
