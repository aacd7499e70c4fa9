"""Canvases equal those that Pillow computes; bad files are refused."""

import contextlib
import glob
import io
import itertools
import os
import struct
import subprocess
import sys

import chex
from data_helpers import encode, photo
import numpy as np
from PIL import Image, ImageOps, PngImagePlugin
import pytest
from tiny import ROOT

from alexnet_jax.data import decode as canvas_lib
from alexnet_jax.data import keys
from alexnet_jax.data.decode import Canvas, decode_canvas
from alexnet_jax.errors import UserError

SMALL = Canvas(size=32)


def with_minor_error(data: bytes) -> bytes:
  """Adds a minor error to a JPEG, which simplejpeg refuses and Pillow ignores, and nothing to other files."""
  return data.replace(b'\xff\xdb', b'\0\0\xff\xdb', 1) if data[:2] == b'\xff\xd8' else data


BOTH_DECODERS = pytest.mark.parametrize('decodable', [bytes, with_minor_error])


def reference(image: Image.Image, size: int, resample: int = Image.Resampling.BICUBIC):
  """Scales the short side to `size` and crops the centre with Pillow; returns uint8 [size, size, 3]."""
  width, height = image.size
  short = min(width, height)
  width, height = (int(side * size / short + 0.5) for side in (width, height))
  # There are two calls, because in one call Pillow would choose the order of the axes by the shape.
  rows = image.convert('RGB').resize((width, image.height), resample)
  left, top = (width - size) // 2, (height - size) // 2
  scaled = rows.resize((width, height), resample)
  return np.asarray(scaled.crop((left, top, left + size, top + size)))


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
  """Compares images; because of rounding, one pixel in a thousand may differ by two or three levels."""
  difference = np.abs(found.astype(int) - expected.astype(int))
  assert found.shape == expected.shape and found.dtype == expected.dtype == np.uint8
  assert difference.max() <= 3 and difference.mean() <= 0.3


@pytest.mark.parametrize('filter_name', canvas_lib.FILTERS)
@pytest.mark.parametrize('shape', [(100, 75), (75, 101), (200, 33), (33, 150), (20, 17), (32, 32)])
def test_crop_equals_scaling_then_cropping(shape, filter_name):
  pixels = photo(1, *shape)
  expected = reference(Image.fromarray(pixels), 32, Image.Resampling[filter_name.upper()])
  found = decode_canvas(pixels, Canvas(32, filter=filter_name))
  assert_close(found, expected)


def test_warping_and_padding():
  pixels = photo(2, 64, 40)
  warped = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)
  assert_close(decode_canvas(pixels, Canvas(32, fit='warp')), np.asarray(warped))
  padded = decode_canvas(pixels, Canvas(32, fit='pad'))
  scaled = Image.fromarray(pixels).resize((32, 20), Image.Resampling.BICUBIC)
  assert_close(padded[6:26], np.asarray(scaled))
  assert (padded[:6] == 128).all() and (padded[26:] == 128).all()


@pytest.mark.parametrize('shape', [(1, 4000), (4000, 1), (4000, 3)])
@pytest.mark.parametrize('fit', keys.CANVAS['fit'].choices)
def test_images_of_one_pixel_width_or_height(shape, fit):
  image = decode_canvas(np.full((*shape, 3), 77, np.uint8), Canvas(32, fit=fit))
  chex.assert_shape(image, (32, 32, 3))
  middle = image[15:17, 15:17]  # in a padded strip, one of the two rows or columns is the image
  assert (middle == 77).any() and ((middle == 77).all() or fit == 'pad')


@BOTH_DECODERS
@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK'])
@pytest.mark.parametrize('subsampling', [0, 2])
def test_jpeg_pixels_equal_those_of_pillow(mode, subsampling, decodable):
  data = encode(Image.fromarray(photo(3, 50, 41)).convert(mode), subsampling=subsampling)
  with Image.open(io.BytesIO(data)) as image:
    expected = reference(image, 32)
  assert_close(decode_canvas(decodable(data), SMALL), expected)


@pytest.mark.parametrize('fit', keys.CANVAS['fit'].choices)
@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK'])
def test_a_large_jpeg_is_reduced_while_it_is_decoded(mode, fit):
  """The reductions are 1 to 1/8, with sides that are not divisible by the factor, and with both decoders."""
  for k, (width, height) in enumerate([(123, 95), (131, 97), (301, 203), (395, 777), (1003, 799)]):
    pixels = photo(k, width, height)
    data = encode(Image.fromarray(pixels).convert(mode), progressive=bool(k % 2), subsampling=k % 3)
    with Image.open(io.BytesIO(data)) as image:
      whole = decode_canvas(np.asarray(image.convert('RGB')), Canvas(32, fit))
    found = decode_canvas(data, Canvas(32, fit))
    difference = np.abs(found.astype(int) - whole.astype(int))
    assert difference.mean() <= 1 and difference.max() <= 6
    assert (difference.max() > 0) == (min(width, height) >= 96), (
      'the image was not reduced as expected'
    )
    chex.assert_trees_all_equal(decode_canvas(with_minor_error(data), Canvas(32, fit)), found)


@pytest.mark.parametrize('form', ['PNG', 'BMP', 'GIF', 'TIFF', 'WEBP'])
def test_other_file_formats(form):
  pixels = photo(4, 32, 32)
  options = {'lossless': True} if form == 'WEBP' else {}
  found = decode_canvas(encode(pixels, form, **options), SMALL)
  tolerance = 60 if form == 'GIF' else 0  # a palette of 256 colours
  chex.assert_trees_all_close(found.astype(int), pixels.astype(int), atol=tolerance)


def test_gray_arrays_of_both_shapes():
  gray = photo(5, 40, 40)[:, :, 0]
  found = decode_canvas(gray, SMALL)
  assert (found == found[:, :, :1]).all()
  chex.assert_trees_all_equal(found, decode_canvas(gray[:, :, None], SMALL))
  chex.assert_trees_all_equal(found, decode_canvas(np.repeat(gray[:, :, None], 3, 2), SMALL))


def test_16_bit_gray_is_scaled_to_8():
  levels = np.arange(32 * 32, dtype=np.uint32).reshape(32, 32) * 65535 // 1023
  found = decode_canvas(encode(levels.astype(np.uint16), 'PNG'), SMALL)
  chex.assert_trees_all_close(found[:, :, 1].astype(float), levels / 257, atol=0.51)


def gray_tiff(levels: np.ndarray, bits: int, white: int) -> bytes:
  """Returns an uncompressed gray TIFF file; `white` is its PhotometricInterpretation, where 0 inverts."""
  height, width = levels.shape
  data = levels.astype('<u2').tobytes()
  if bits == 12:
    first, second = levels.reshape(-1, 2).T
    packed = first >> 4, (first & 15) << 4 | second >> 8, second & 255
    data = np.stack(packed, axis=1).astype(np.uint8).tobytes()
  tags = {256: width, 257: height, 258: bits, 259: 1, 262: white, 273: 122, 277: 1, 278: height}
  entries = [
    struct.pack('<HHII', *entry)
    for entry in (*((tag, 3, 1, value) for tag, value in tags.items()), (279, 4, 1, len(data)))
  ]
  return struct.pack('<2sHIH', b'II', 42, 8, 9) + b''.join(entries) + bytes(4) + data


@pytest.mark.parametrize(('bits', 'white'), [(16, 1), (16, 0), (12, 1)])
def test_deep_gray_tiff_is_scaled_by_its_bits_and_inverted_by_its_tag(bits, white):
  levels, notes = np.arange(32 * 32).reshape(32, 32) * (2**bits - 1) // 1023, []
  found = decode_canvas(gray_tiff(levels, bits, white), SMALL, notes)
  expected = levels / (2**bits - 1) * 255
  expected = expected if white else 255 - expected
  chex.assert_trees_all_close(found[:, :, 1].astype(float), expected, atol=0.51)
  assert notes == [f'{bits} bits per channel were scaled to 8']


def test_palettes_and_transparency():
  pixels = photo(6, 32, 32)
  palette = Image.fromarray(pixels).quantize(16)
  expected = np.asarray(palette.convert('RGB'))
  chex.assert_trees_all_equal(decode_canvas(encode(palette, 'PNG'), SMALL), expected)
  clear = Image.fromarray(np.dstack([pixels, np.zeros((32, 32), np.uint8)]))
  assert (decode_canvas(encode(clear, 'PNG'), SMALL) == 255).all()
  opaque = Image.fromarray(np.dstack([pixels, np.full((32, 32), 255, np.uint8)]))
  chex.assert_trees_all_equal(decode_canvas(encode(opaque, 'PNG'), SMALL), pixels)


def test_strips_of_tall_images_are_converted_as_the_whole_image():
  rng = np.random.default_rng(0)
  rgba = Image.fromarray(rng.integers(0, 256, (600, 20, 4), np.uint8))
  palette = rgba.convert('RGB').quantize(16)
  canvas = Canvas(20, 'warp')
  for image, form, options in (
    (rgba, 'PNG', {}),
    (rgba, 'WEBP', {'lossless': True}),
    (rgba.convert('LA'), 'PNG', {}),
    (rgba.convert('RGB'), 'PNG', {'transparency': rgba.getpixel((3, 400))[:3]}),
    (palette, 'PNG', {'transparency': 3}),
    (palette, 'GIF', {'transparency': 3}),
    (palette, 'PNG', {}),
    (rgba.convert('1'), 'PNG', {}),
    (rgba.convert('CMYK'), 'TIFF', {}),
  ):
    data = encode(image, form, **options)
    with Image.open(io.BytesIO(data)) as whole:
      if whole.has_transparency_data:
        opaque = Image.new('RGB', whole.size, 'white')
        opaque.paste(whole.convert('RGBA'), mask=whole.convert('RGBA'))
      else:
        opaque = whole.convert('RGB')
    expected = decode_canvas(np.asarray(opaque), canvas)
    chex.assert_trees_all_equal(decode_canvas(data, canvas), expected)


@pytest.mark.long
@pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='needs /proc')
def test_the_memory_for_a_large_transparent_image():
  """A WebP file of 49 million pixels takes about 790 MB; with copies of the whole image it took 1,080 MB."""
  file = io.BytesIO()
  Image.new('RGBA', (7000, 7000), (9, 9, 9, 100)).save(file, 'WEBP', method=0, lossless=True)
  program = """
import re, sys
import numpy as np
from alexnet_jax.data.decode import decode_canvas
def memory(field):
  return 1024 * int(re.search(field + r':\\s+(\\d+)', open('/proc/self/status').read())[1])
data = sys.stdin.buffer.read()
decode_canvas(np.zeros((300, 300, 3), np.uint8))
idle = memory('VmRSS')
canvas = decode_canvas(data)
print(memory('VmHWM') - idle, *canvas[0, 0])
"""
  line = [sys.executable, '-c', program]
  done = subprocess.run(line, input=file.getvalue(), cwd=ROOT, capture_output=True, check=True)
  used, *pixel = map(int, done.stdout.split())
  assert pixel == [159, 159, 159]  # 9 and white, in the proportion of 100 to 155
  assert used < 900e6


def test_memory_that_ran_out_is_not_a_damaged_image(monkeypatch):
  def fail(*args):
    raise MemoryError

  monkeypatch.setattr(canvas_lib, '_decode', fail)
  with pytest.raises(MemoryError):
    decode_canvas(b'x', Canvas(8))


@BOTH_DECODERS
@pytest.mark.parametrize('form', ['JPEG', 'PNG', 'WEBP'])
@pytest.mark.parametrize('has_exif', [False, True])
def test_orientations_of_xmp_are_ignored(form, has_exif, decodable):
  """Pillow reads them if there are no EXIF data, or if these have no orientation."""
  xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>'
  metadata = {'xmp': xmp}
  if form == 'PNG':
    metadata = {'pnginfo': PngImagePlugin.PngInfo()}
    metadata['pnginfo'].add_itxt('XML:com.adobe.xmp', xmp.decode())
  if has_exif:
    metadata['exif'] = Image.Exif()
    metadata['exif'][0x010F] = 'a maker of cameras'
  canvas = Canvas(32, exif_orientation=True)
  # Without dpi, Pillow parses the EXIF data of a JPEG when it opens the file.
  for options in ({}, {'dpi': (72, 72)}):
    turned = encode(photo(7, 50, 41), form, **metadata, **options)
    with Image.open(io.BytesIO(turned)) as opened:
      assert opened.getexif().get(0x0112) == 6
    found, expected = (decodable(data) for data in (turned, encode(photo(7, 50, 41), form)))
    chex.assert_trees_all_equal(decode_canvas(found, canvas), decode_canvas(expected, canvas))
    with Image.open(io.BytesIO(found)) as opened:
      chex.assert_trees_all_equal(decode_canvas(opened, canvas), decode_canvas(expected, canvas))


def with_orientation(orientation: int) -> Image.Exif:
  exif = Image.Exif()
  exif[0x0112] = orientation
  return exif


@BOTH_DECODERS
@pytest.mark.parametrize('form', ['JPEG', 'PNG', 'WEBP'])
def test_a_photograph_is_turned_upright(form, decodable):
  """By default (`exif_orientation`) a photograph is turned upright."""
  for fit, orientation in itertools.product(keys.CANVAS['fit'].choices, range(1, 9)):
    canvas = Canvas(32, fit, exif_orientation=True)
    data = encode(photo(7, 50, 41), form, exif=with_orientation(orientation))
    with Image.open(io.BytesIO(data)) as image:
      as_stored = np.asarray(image.convert('RGB'))
      upright = np.asarray(ImageOps.exif_transpose(image).convert('RGB'))
    assert (upright.shape != as_stored.shape) == (orientation >= 5)
    data = decodable(data)
    chex.assert_trees_all_equal(decode_canvas(data, canvas), decode_canvas(upright, canvas))
    ignored = canvas._replace(exif_orientation=False)
    chex.assert_trees_all_equal(decode_canvas(data, ignored), decode_canvas(as_stored, ignored))


@BOTH_DECODERS
def test_a_large_rotated_jpeg_is_reduced(decodable):
  """If the factor does not divide a side, an error in the order of operations would shift the result."""
  canvas = Canvas(32, exif_orientation=True)
  for (width, height), orientation in itertools.product([(400, 304), (395, 300)], range(2, 9)):
    data = encode(photo(7, width, height), exif=with_orientation(orientation))
    with Image.open(io.BytesIO(data)) as image:
      whole = decode_canvas(np.asarray(ImageOps.exif_transpose(image).convert('RGB')), canvas)
    difference = np.abs(decode_canvas(decodable(data), canvas).astype(int) - whole.astype(int))
    assert difference.mean() <= 0.6 and difference.max() <= 6
    assert (difference.max() > 0) == (width == 400)  # 395 is odd


def test_tiff_is_always_upright():
  data = encode(photo(7, 50, 41), 'TIFF', exif=with_orientation(6))
  upright = np.rot90(photo(7, 50, 41), -1)
  for exif_orientation in (False, True):
    canvas = SMALL._replace(exif_orientation=exif_orientation)
    chex.assert_trees_all_equal(decode_canvas(data, canvas), decode_canvas(upright, SMALL))


@pytest.mark.parametrize('value', [0, 9, 6])
def test_invalid_exif_data_are_ignored(value):
  canvas = SMALL._replace(exif_orientation=True)
  data = encode(photo(7), exif=with_orientation(value))
  if value == 6:  # the header of the EXIF data is damaged
    data = data.replace(b'Exif\0\0', b'Exif\0\0\xff\xff')
  chex.assert_trees_all_equal(decode_canvas(data, canvas), decode_canvas(encode(photo(7)), canvas))


def test_pillow_and_tensorflow_ignore_the_orientation():
  """The recipes reproduce programs that decode with these libraries: torchvision and TFDS."""
  tf = pytest.importorskip('tensorflow')
  data = encode(photo(7, 50, 41), exif=with_orientation(6))
  with Image.open(io.BytesIO(data)) as image:
    assert np.asarray(image.convert('RGB')).shape == (41, 50, 3)
  assert tf.io.decode_jpeg(data).shape == tf.io.decode_image(data).shape == (41, 50, 3)


@pytest.mark.parametrize('form', ['JPEG', 'PNG'])
def test_the_limit_of_pixels_is_checked_before_decoding(form):
  data = encode(np.zeros((300, 300), np.uint8), form)
  with pytest.raises(ValueError, match='300x300 pixels'):
    decode_canvas(data[:-20], SMALL._replace(max_pixels=300 * 300 - 1))  # truncated
  decode_canvas(data, SMALL._replace(max_pixels=300 * 300))
  with pytest.raises(
    ValueError, match='32x9999 pixels'
  ):  # the image between the two passes of a warp is too large
    decode_canvas(np.zeros((9999, 1), np.uint8), Canvas(32, 'warp', max_pixels=10**5))


def bad_files():
  jpeg, png = encode(photo(8, 200, 200)), encode(photo(8), 'PNG')
  return {
    'empty': b'',
    'text': b'no image at all',
    'truncated jpeg': jpeg[: len(jpeg) // 2],
    'jpeg header': jpeg[:100],
    'truncated png': png[: len(png) // 2],
    'floats': encode(Image.fromarray(np.zeros((9, 9), np.float32)), 'TIFF'),
    'postscript': b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n',
    'float array': np.zeros((9, 9, 3)),
    'four channels': np.zeros((9, 9, 4), np.uint8),
    'no pixels': np.zeros((0, 9, 3), np.uint8),
  }


@pytest.mark.parametrize('name', bad_files())
def test_bad_files_raise_value_error(name):
  with pytest.raises(ValueError) as raised:
    decode_canvas(bad_files()[name], SMALL)
  assert str(raised.value)


@pytest.mark.filterwarnings('ignore')
def test_damaged_bytes_raise_only_value_error():
  rng = np.random.default_rng(0)
  files = [encode(photo(9), form) for form in ('JPEG', 'PNG', 'GIF', 'TIFF', 'BMP', 'WEBP')]
  for k in range(600):
    data = bytearray(files[k % len(files)])
    for place in rng.integers(0, len(data), 4):
      data[place] = rng.integers(256)
    with contextlib.suppress(ValueError):
      chex.assert_shape(decode_canvas(bytes(data), SMALL._replace(max_pixels=10**6)), (32, 32, 3))


@pytest.mark.parametrize(
  'bad', [{'fit': 'squeeze'}, {'size': 0}, {'filter': 'x'}, {'width': 3}, {'exif_orientation': 2}]
)
def test_invalid_settings_are_refused(bad):
  with pytest.raises(UserError, match=f'{next(iter(bad))}'):
    Canvas.from_config(bad)


def test_real_photographs():
  root = os.environ.get('ALEXNET_JAX_DATA')
  if not root:
    pytest.skip('ALEXNET_JAX_DATA names no folder of photographs')
  paths = sorted(glob.glob(f'{root}/**/*.[jJ]*', recursive=True))[:20]
  for path in paths:
    with open(path, 'rb') as file, Image.open(path) as image:
      found, expected = decode_canvas(file.read()), reference(image, 256)
    difference = np.abs(found.astype(int) - expected.astype(int))
    assert difference.mean() <= 0.5 and np.percentile(difference, 99.9) <= 6
