"""Decodes an image to the uint8 canvas that the device crops (docs/FACTS.md, section 3).

The paper scales the short side to 256 pixels and keeps the central 256x256; Caffe warps the whole
image to 256x256; the "no_crop" data of the original code pastes the whole image into the canvas. Each
is one antialiased resize of a box of the image, so that no intermediate is larger than the image or
the canvas, however long and thin the image is.
"""

from collections.abc import Callable
import io
import itertools
import math
import threading
from typing import Any, NamedTuple

import cykooz_resizer as resizer
import numpy as np
from PIL import Image, UnidentifiedImageError
import simplejpeg

from alexnet_jax.data.keys import CANVAS
from alexnet_jax.errors import UserError
from alexnet_jax.utils import schema

FILTERS = {
  'bicubic': resizer.FilterType.catmull_rom,  # the cubic with a = -0.5, which Pillow uses too
  'bilinear': resizer.FilterType.bilinear,
  'box': resizer.FilterType.box,
  'lanczos': resizer.FilterType.lanczos3,
}
# The keys under which Pillow keeps the EXIF and the XMP data of a file.
_EXIF = ('exif', 'Raw profile type exif')
_XMP = ('xmp', 'XML:com.adobe.xmp', 'Raw profile type xmp')
# Pillow opens more formats, some of them with other programs (EPS with Ghostscript), which would be
# unsafe for untrusted files.
_FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'TIFF', 'WEBP')
# A JPEG is decoded at 1/2, 1/4 or 1/8 of its size, which is cheaper, if its short side then still has
# 1.5 times the side of the canvas. Canvases of 256 pixels then differ from those of the whole JPEG by
# at most 1 grey level on average over an image, and by 18 in a single pixel.
_MIN_SCALE = 1.5
_EXIF_BYTES = 2**16  # the EXIF data of a JPEG are within its first bytes, at most this many
_ORIENTATION = 0x0112  # EXIF tag
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF tags
_WHITE_IS_ZERO = 0  # a value of the second
_STRIP = 256  # rows of an image that Pillow converts at a time
_PAD_LEVEL = 128  # mid-gray; the original pasted on the mean image, which is not known here


class Canvas(NamedTuple):
  """How an image becomes a canvas (`config.data.canvas`).

  Attributes:
    size: side S of the square canvas in pixels (paper section 2: 256).
    fit: `crop` scales the short side to S and keeps the centre (paper section 2); `warp` scales both
      sides to S (Caffe); `pad` scales the long side to S and centres the image on mid-gray (close to
      "no_crop" in FACTS section 3).
    filter: the antialiased filter, one of `FILTERS`. Canvases differ from those of
      Pillow's filter of the same name by 0.2 grey levels on average, and by 20 at most (over 300
      ImageNet images).
    max_pixels: the largest width x height of an image. A larger image is refused before it is
      decoded, and so is an image whose scaling needs a larger intermediate. The default is Pillow's
      own limit.
    exif_orientation: whether a photograph is turned upright by its EXIF orientation, as browsers
      and viewers show it. The original code, Caffe, torchvision and TFDS ignore the orientation.
      TIFF files are always turned, by Pillow.
  """

  size: int = 256
  fit: str = 'crop'
  filter: str = 'bicubic'
  max_pixels: int = 89_478_485
  exif_orientation: bool = True

  @classmethod
  def from_config(cls, config: Any) -> 'Canvas':
    """Makes a `Canvas` of `config.data.canvas`, or of any mapping of some of the fields.

    Raises:
      UserError: a field is unknown or has an invalid value.
    """
    values = dict(config)
    unknown = sorted(set(values) - set(cls._fields))
    if unknown:
      fields = ', '.join(cls._fields)
      raise UserError(f'config.data.canvas has no field {unknown[0]!r}; it has {fields}')
    schema.check(values, {name: CANVAS[name] for name in values}, 'config.data.canvas')
    return cls(**values)

  def settings(self) -> dict[str, Any]:
    """Returns the fields as stores and caches record them: `exif_orientation` only if it is on.

    So stores and caches that were written before this field existed remain valid.
    """
    fields = self._asdict()
    if not self.exif_orientation:
      del fields['exif_orientation']
    return fields


_DEFAULT = Canvas()
_thread = threading.local()


def decode_canvas(
  source: bytes | np.ndarray | Image.Image,
  canvas: Any = _DEFAULT,
  notes: list[str] | None = None,
) -> np.ndarray:
  """Decodes one image and fits it to the canvas.

  The formats are JPEG (gray, RGB, CMYK and YCCK), PNG, GIF (first frame), BMP, WebP and TIFF.
  Transparent images are composited on white, and 16-bit gray is scaled to 8 bits.

  Args:
    source: an encoded image, a Pillow image, or uint8 pixels [H, W], [H, W, 1] or [H, W, 3] (RGB).
    canvas: a `Canvas`, or any object with its attributes.
    notes: a list to which a line is appended for each repair or conversion.

  Returns:
    RGB, uint8 [S, S, 3].

  Raises:
    ValueError: the image is damaged, truncated or too large, or its format is unknown.
  """
  notes = [] if notes is None else notes
  try:
    if isinstance(source, np.ndarray):
      image = _from_array(source)
      height, width = image.shape[:2]
      _check_pixels(width, height, canvas)
    elif isinstance(source, Image.Image):
      image, width, height = _from_pillow(source, canvas, notes, reduce=False)
    else:
      image, width, height = _decode(source, canvas, notes)
    image = _fit(image, width, height, canvas)
    return image if image.shape[2] == 3 else np.repeat(image, 3, axis=2)
  except (ValueError, MemoryError):
    raise
  except Exception as error:  # Pillow's readers raise many types on damaged files
    raise ValueError(f'{type(error).__name__}: {error}') from error


def _check_pixels(width: int, height: int, canvas: Any) -> None:
  if not 0 < width * height <= canvas.max_pixels:
    raise ValueError(f'{width}x{height} pixels; the limit is {canvas.max_pixels} in all')


def _from_array(pixels: np.ndarray) -> np.ndarray:
  """Checks uint8 [H, W], [H, W, 1] or [H, W, 3], and returns the first as [H, W, 1]."""
  if pixels.ndim == 2:
    pixels = pixels[:, :, None]
  if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
    raise ValueError(f'pixels are {pixels.dtype} {list(pixels.shape)}, not uint8 [H, W(, 1 or 3)]')
  return pixels


def encode_jpeg(image: np.ndarray, quality: int, subsampling: str) -> bytes:
  """Encodes a canvas, uint8 [S, S, 3], as JPEG; the chroma subsampling is 444, 422 or 420."""
  image = np.ascontiguousarray(image)
  return simplejpeg.encode_jpeg(image, quality, 'RGB', subsampling, fastdct=False)


def decode_stored(data: bytes | np.ndarray, out: np.ndarray) -> None:
  """Decodes a JPEG that `encode_jpeg` wrote, as bytes or uint8 [n], into `out`, uint8 [S, S, 3].

  Raises:
    ValueError: the JPEG is damaged, or its size differs from that of `out`.
  """
  if simplejpeg.decode_jpeg_header(data)[:2] != out.shape[:2]:
    raise ValueError(f'the stored image does not have {out.shape[0]}x{out.shape[1]} pixels')
  simplejpeg.decode_jpeg(data, 'RGB', buffer=out)


def _reduction(width: int, height: int, canvas: Any, orientation: int) -> int:
  """Returns the factor by which a JPEG may be reduced when it is decoded: 1, 2, 4 or 8.

  It divides both sides of an image that is turned, because the fractional pixels of a reduced image
  are at its right and lower edges.
  """
  limit = min(width, height) / (_MIN_SCALE * canvas.size)
  factors = [n for n in (2, 4, 8) if n <= limit]
  if orientation != 1:
    factors = [n for n in factors if not width % n and not height % n]
  return max(factors, default=1)


def _orientation_of(image: Image.Image) -> int:
  """Returns the EXIF orientation of a Pillow image, 1 to 8; 1 (upright) if it has none or an invalid one."""
  if any(key in image.info for key in _XMP):
    # If the EXIF data have no orientation, Pillow takes that of the XMP data, which other decoders ignore;
    # for many JPEG files it does so when it opens them. Hence the EXIF data are parsed without XMP data.
    bare = Image.Image()
    bare.info = {key: image.info[key] for key in _EXIF if key in image.info}
    image = bare
  try:
    orientation = image.getexif().get(_ORIENTATION, 1)
  except Exception:  # Pillow raises many types on damaged EXIF data
    return 1
  return orientation if orientation in range(1, 9) else 1


def _jpeg_orientation(data: bytes) -> int:
  """Returns the EXIF orientation of a JPEG file, as `_orientation_of`."""
  if data.find(b'Exif\0\0', 0, _EXIF_BYTES) < 0:
    return 1
  try:
    with Image.open(io.BytesIO(data), formats=('JPEG', 'MPO')) as image:
      return _orientation_of(image)
  except Exception:  # simplejpeg decodes some files that Pillow cannot open
    return 1


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
  """Turns pixels [H, W, C] upright, given their EXIF orientation."""
  if orientation >= 5:
    pixels = pixels.swapaxes(0, 1)
  if orientation in (3, 4, 7, 8):
    pixels = pixels[::-1]
  if orientation in (2, 3, 6, 7):
    pixels = pixels[:, ::-1]
  return pixels


def _decode(data: bytes, canvas: Any, notes: list[str]) -> tuple[np.ndarray, float, float]:
  """Decodes an image, after checking its size in the header.

  Returns:
    The pixels, uint8 [H, W, 1] or [H, W, 3], turned upright if `canvas.exif_orientation` is on, and
    the width and height of the image in units of these pixels. They are fractions for a JPEG that is
    reduced: W - 1 < width <= W.
  """
  if data[:2] == b'\xff\xd8':
    try:
      height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
      if colors in ('Gray', 'YCbCr') and 0 < width * height <= canvas.max_pixels:
        orientation = _jpeg_orientation(data) if canvas.exif_orientation else 1
        n = _reduction(width, height, canvas, orientation)
        least = {'min_height': -(-height // n), 'min_width': -(-width // n), 'min_factor': n}
        space = 'GRAY' if colors == 'Gray' else 'RGB'
        return _upright(simplejpeg.decode_jpeg(data, space, **least), width, height, n, orientation)
    except ValueError as error:
      # simplejpeg refuses files with minor errors that Pillow accepts, so Pillow decides.
      notes.append(f'minor errors were ignored ({error})')
  try:
    image = Image.open(io.BytesIO(data), formats=_FORMATS)
  except UnidentifiedImageError as error:  # its message is an address in memory
    raise ValueError(f'not an image of a known format ({", ".join(_FORMATS)})') from error
  with image:
    return _from_pillow(image, canvas, notes, reduce=True)


def _from_pillow(
  image: Image.Image, canvas: Any, notes: list[str], reduce: bool
) -> tuple[np.ndarray, float, float]:
  """Returns what `_decode` returns; `reduce` allows a JPEG file to be decoded at a fraction of its size."""
  width, height = image.size
  _check_pixels(width, height, canvas)
  is_jpeg = image.format in ('JPEG', 'MPO')
  orientation = _orientation_of(image) if is_jpeg and canvas.exif_orientation else 1
  n = _reduction(width, height, canvas, orientation) if is_jpeg and reduce else 1
  if reduce:
    image.draft(None, (width // n, height // n))
  if getattr(image, 'is_animated', False):
    notes.append(f'animated {image.format}: the first frame was used')
  pixels = _from_array(_to_gray_or_rgb(image, notes))
  if canvas.exif_orientation and not is_jpeg:  # in a PNG, the EXIF data may follow the pixels
    orientation = _orientation_of(image)
  return _upright(pixels, width, height, n, orientation)


def _upright(
  pixels: np.ndarray, width: int, height: int, n: int, orientation: int
) -> tuple[np.ndarray, float, float]:
  """Returns what `_decode` returns, given the pixels of an image that was reduced by n."""
  if orientation >= 5:
    width, height = height, width
  return _turn(pixels, orientation), width / n, height / n


def _to_gray_or_rgb(image: Image.Image, notes: list[str]) -> np.ndarray:
  """Decodes a Pillow image of any mode to gray, uint8 [H, W], or RGB, uint8 [H, W, 3]."""
  if image.mode == 'CMYK':
    notes.append('CMYK was converted to RGB')
  tags = getattr(image, 'tag_v2', {})  # those of a TIFF file
  bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
  if image.mode.startswith('I') or ';16' in str([part.args for part in getattr(image, 'tile', ())]):
    notes.append(f'{bits} bits per channel were scaled to 8')
  if image.mode.startswith('I;16') or (image.mode == 'I' and image.format == 'PNG'):
    gray = _convert(image, lambda strip: _from_deep_gray(strip, bits))
    # Pillow inverts such images only if they have 8 bits or fewer.
    return 255 - gray if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else gray
  if image.mode in ('I', 'F'):
    raise ValueError(f'pixels of mode {image.mode} have an unknown range')
  if image.has_transparency_data:
    notes.append('transparent parts were composited on white')
    return _convert(image, _on_white)
  mode = 'L' if image.mode in ('1', 'L') else 'RGB'
  return _convert(image, lambda strip: strip if strip.mode == mode else strip.convert(mode))


def _convert(image: Image.Image, function: Callable[[Image.Image], Any]) -> np.ndarray:
  """Applies a function of single pixels to strips of rows, and returns the result, uint8 [H, W(, 3)].

  Pillow keeps RGB and RGBA in 4 bytes per pixel, and its WebP decoder three such copies. With more
  copies of the whole image, a WebP file of 49 million pixels would need over a gigabyte.
  """
  image.load()
  width, height = image.size
  tops = range(0, height, _STRIP)
  boxes = ((0, top, width, min(top + _STRIP, height)) for top in tops)
  strips = (np.asarray(function(image.crop(box))) for box in boxes)
  first = next(strips)
  pixels = np.empty((height, *first.shape[1:]), np.uint8)
  for top, strip in zip(tops, itertools.chain([first], strips), strict=True):
    pixels[top : top + _STRIP] = strip
  return pixels


def _from_deep_gray(image: Image.Image, bits: int) -> np.ndarray:
  """Scales gray of 12 or 16 bits to uint8 [H, W]; Pillow's own conversion clips at 255, which gives white."""
  return np.round(np.asarray(image, np.float32) / ((2**bits - 1) / 255)).astype(np.uint8)


def _on_white(image: Image.Image) -> Image.Image:
  """Composites a transparent image on white."""
  image = image.convert('RGBA')
  opaque = Image.new('RGB', image.size, 'white')
  opaque.paste(image, mask=image)
  return opaque


def _fit(image: np.ndarray, width: float, height: float, canvas: Any) -> np.ndarray:
  """Fits an image to the canvas.

  Args:
    image: uint8 [H, W, C].
    width: width of the image, in pixels of the array; it may be a fraction below W.
    height: height of the image, in the same way.
    canvas: the canvas.

  Returns:
    uint8 [S, S, C].
  """
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
  # The box is the part of the image that the centre crop keeps. The filter also reads pixels outside
  # the box, so the result equals scaling the whole image and then cropping.
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
  _check_pixels(size[0], math.ceil(bottom - top), canvas)  # the intermediate of the two passes
  kind = resizer.PixelType.U8 if channels == 1 else resizer.PixelType.U8x3
  source = resizer.ImageData(width, height, kind, image.tobytes())
  scaled = resizer.ImageData(*size, kind)
  options = resizer.ResizeOptions()
  options.resize_alg = resizer.ResizeAlg.convolution(FILTERS[canvas.filter])
  options.crop_box = resizer.CropBox(left, top, right - left, bottom - top)
  if not hasattr(_thread, 'resizer'):  # a resizer keeps buffers and belongs to one thread
    _thread.resizer = resizer.Resizer()
  _thread.resizer.resize(source, scaled, options)
  return np.frombuffer(scaled.get_buffer(), np.uint8).reshape(size[1], size[0], channels)


def _scaled(width: float, height: float, size: int, side: float) -> tuple[int, int]:
  """Returns width and height after scaling `side` to `size`, rounded half up, at least 1 pixel."""

  def scaled(length: float) -> int:
    return max(1, int((2 * length * size + side) // (2 * side)))

  return scaled(width), scaled(height)
