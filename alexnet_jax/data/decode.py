"""From the bytes of an image to the uint8 canvas that the device crops (FACTS §3).

The paper scales the short side to 256 and keeps the central 256x256; Caffe warps the whole image
to 256x256; the "no_crop" data of the original code pastes the whole image into the canvas. All
three are one antialiased resize told which box of the image to read, so that nothing larger than
the image or the canvas is made, however long and thin the image.
"""

import io
import math
import threading
from typing import Any, NamedTuple

import cykooz_resizer as resizer
import numpy as np
from PIL import Image, UnidentifiedImageError

from alexnet_jax.data.keys import CANVAS
from alexnet_jax.errors import UserError
from alexnet_jax.utils import schema

try:
  import simplejpeg
except ImportError:  # It gives Pillow's pixels about 1.5 times as fast; Pillow serves as well.
  simplejpeg = None

FILTERS = {
  'bicubic': resizer.FilterType.catmull_rom,  # the cubic of a = -0.5, as Pillow's
  'bilinear': resizer.FilterType.bilinear,
  'box': resizer.FilterType.box,
  'lanczos': resizer.FilterType.lanczos3,
}
# Pillow opens more, some of it by other programs (EPS by Ghostscript): not files of strangers.
_FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'TIFF', 'WEBP')
# A JPEG is decoded at 1/2, 1/4 or 1/8 of its size, which libjpeg does for less, as long as its short side
# keeps 1.5 times the canvas's: canvases of 256 pixels differ by 1.3 grey levels at most (RESULTS.md).
_SPARE = 1.5
_PAD_LEVEL = 128  # mid-gray; the original pasted on the mean image, which is not known here yet


class Canvas(NamedTuple):
  """How an image becomes a canvas.

  Attributes:
    size: side S of the square canvas in pixels (paper §2: 256).
    fit: `crop` (short side to S, centre crop; paper §2), `warp` (straight to S x S; Caffe) or
      `pad` (long side to S, centred on mid-gray; close to "no_crop" of FACTS §3).
    filter: antialiased, one of `FILTERS`; Pillow's of that name, give or take a grey level.
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
    schema.check(values, {name: CANVAS[name] for name in values}, 'config.data.canvas')
    return cls(**values)


_DEFAULT = Canvas()
_thread = threading.local()


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
    if isinstance(source, np.ndarray):
      image = _from_array(source)
      height, width = image.shape[:2]
      _check_pixels(width, height, canvas)
    else:
      image, width, height = _decode(source, canvas, notes)
    image = _fit(image, width, height, canvas)
    return image if image.shape[2] == 3 else np.repeat(image, 3, axis=2)
  except ValueError:
    raise
  except Exception as error:  # Pillow's readers raise anything at all on broken files.
    raise ValueError(f'{type(error).__name__}: {error}') from error


def _check_pixels(width: int, height: int, canvas: Any) -> None:
  if not 0 < width * height <= canvas.max_pixels:
    raise ValueError(f'{width}x{height} pixels; the limit is {canvas.max_pixels} in all')


def _from_array(pixels: np.ndarray) -> np.ndarray:
  """Checks uint8 [H, W], [H, W, 1] or [H, W, 3], and gives the first as the second."""
  if pixels.ndim == 2:
    pixels = pixels[:, :, None]
  if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
    raise ValueError(f'pixels are {pixels.dtype} {list(pixels.shape)}, not uint8 [H, W(, 1 or 3)]')
  return pixels


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
    with Image.open(io.BytesIO(bytes(data)), formats=('JPEG',)) as image:
      out[...] = np.asarray(image)
  except (OSError, SyntaxError) as error:
    raise ValueError(str(error)) from error


def _shrinkage(width: int, height: int, canvas: Any) -> int:
  """How many times smaller a JPEG may be decoded: 1, 2, 4 or 8."""
  spare = min(width, height) / (_SPARE * canvas.size)
  return max((n for n in (2, 4, 8) if n <= spare), default=1)


def _decode(data: bytes, canvas: Any, notes: list[str]) -> tuple[np.ndarray, float, float]:
  """Decodes an image whose size is checked on its header.

  Returns:
    uint8 [H, W, 1] or [H, W, 3], and the width and height of the image in its pixels: of a JPEG that
    is decoded smaller, W - 1 < width <= W.
  """
  if simplejpeg is not None and data[:2] == b'\xff\xd8':
    try:
      height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
      if colors in ('Gray', 'YCbCr') and 0 < width * height <= canvas.max_pixels:
        n = _shrinkage(width, height, canvas)
        least = {'min_height': -(-height // n), 'min_width': -(-width // n), 'min_factor': n}
        space = 'GRAY' if colors == 'Gray' else 'RGB'
        return simplejpeg.decode_jpeg(data, space, **least), width / n, height / n
    except ValueError as error:
      # It refuses small faults that Pillow forgives. Pillow has the last word on every file.
      notes.append(f'small faults were passed over ({error})')
  try:
    image = Image.open(io.BytesIO(data), formats=_FORMATS)
  except UnidentifiedImageError as error:  # its own message is an address in memory
    raise ValueError(f'not an image of a known format ({", ".join(_FORMATS)})') from error
  with image:
    width, height = image.size
    _check_pixels(width, height, canvas)
    n = _shrinkage(width, height, canvas) if image.format in ('JPEG', 'MPO') else 1
    image.draft(None, (width // n, height // n))
    if getattr(image, 'is_animated', False):
      notes.append(f'animated {image.format}: the first frame was used')
    pixels = _from_array(np.asarray(_to_gray_or_rgb(image, notes)))
    return pixels, width / n, height / n


def _to_gray_or_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
  """Decodes a Pillow image of any mode into mode L (uint8 [H, W]) or RGB (uint8 [H, W, 3])."""
  if image.mode == 'CMYK':
    notes.append('CMYK was converted to RGB')
  if image.mode.startswith('I') or ';16' in str([part.args for part in getattr(image, 'tile', ())]):
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


def _fit(image: np.ndarray, width: float, height: float, canvas: Any) -> np.ndarray:
  """Scales uint8 [H, W, C], of which width and height are the image, to [S, S, C] as `canvas.fit` says."""
  size = canvas.size
  if canvas.fit == 'warp':
    return _resize(image, (size, size), (0, 0, width, height), canvas)
  if canvas.fit == 'pad':
    new_width, new_height = _scaled(width, height, size, max(width, height))
    left, top = (size - new_width) // 2, (size - new_height) // 2
    result = np.full((size, size, image.shape[2]), _PAD_LEVEL, np.uint8)
    scaled = _resize(image, (new_width, new_height), (0, 0, width, height), canvas)
    result[top : top + new_height, left : left + new_width] = scaled
    return result
  # The part of the image that the centre crop keeps, in the image's own coordinates. The filter
  # sees beyond the box, so the pixels are those of scaling the whole image and then cropping.
  new_width, new_height = _scaled(width, height, size, min(width, height))
  left, top = (new_width - size) // 2, (new_height - size) // 2
  x, y = width / new_width, height / new_height
  box = (left * x, top * y, min((left + size) * x, width), min((top + size) * y, height))
  return _resize(image, (size, size), box, canvas)


def _resize(
  image: np.ndarray, size: tuple[int, int], box: tuple[float, ...], canvas: Any
) -> np.ndarray:
  """Scales `box` = (left, top, right, bottom) of uint8 [H, W, C] to `size` = (width, height)."""
  height, width, channels = image.shape
  left, top, right, bottom = box
  _check_pixels(size[0], math.ceil(bottom - top), canvas)  # between its two passes
  kind = resizer.PixelType.U8 if channels == 1 else resizer.PixelType.U8x3
  source = resizer.ImageData(width, height, kind, image.tobytes())
  scaled = resizer.ImageData(*size, kind)
  options = resizer.ResizeOptions()
  options.resize_alg = resizer.ResizeAlg.convolution(FILTERS[canvas.filter])
  options.crop_box = resizer.CropBox(left, top, right - left, bottom - top)
  if not hasattr(_thread, 'resizer'):  # it keeps buffers, and serves one thread at a time
    _thread.resizer = resizer.Resizer()
  _thread.resizer.resize(source, scaled, options)
  return np.frombuffer(scaled.get_buffer(), np.uint8).reshape(size[1], size[0], channels)


def _scaled(width: float, height: float, size: int, side: float) -> tuple[int, int]:
  """Width and height after scaling `side` to `size`, rounded half up, at least 1 pixel."""
  scaled = lambda length: max(1, int((2 * length * size + side) // (2 * side)))
  return scaled(width), scaled(height)
