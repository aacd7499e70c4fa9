"""Data configs and small images for the tests of alexnet_jax.data."""

from collections.abc import Iterator
import io
import itertools
import pathlib
from typing import Any

import ml_collections
import numpy as np
from PIL import Image


def photo(seed: int, width: int = 40, height: int = 32) -> np.ndarray:
  """Returns a smooth random image, uint8 [height, width, 3]."""
  rng = np.random.default_rng(seed)
  small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
  return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def encode(pixels: np.ndarray | Image.Image, form: str = 'JPEG', **options: Any) -> bytes:
  """Returns the bytes of an image file."""
  image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
  file = io.BytesIO()
  image.save(file, form, **options)
  return file.getvalue()


def rotated(pixels: np.ndarray, **options: Any) -> bytes:
  """Returns a JPEG that is stored on its side, with an EXIF orientation that turns it upright."""
  exif = Image.Exif()
  exif[0x0112] = 6  # orientation 6: turn the image clockwise by 90 degrees
  return encode(np.rot90(pixels), exif=exif, **options)


def make_config(source: str = 'synthetic', **changes: Any) -> ml_collections.ConfigDict:
  """Returns `config.data` with a canvas of 24 pixels."""
  config = ml_collections.ConfigDict(
    {
      'source': source,
      'task': 'type',
      'holdout': 0.1,
      'split_seed': 0,
      'data_dir': '',
      'manual_dir': '',
      'devkit': '',
      'label_order': '',
      'canvas': {
        'size': 24,
        'fit': 'crop',
        'filter': 'bicubic',
        'max_pixels': 10**6,
        'exif_orientation': True,
      },
      'threads': 2,
      'loader': 'threads',
      'shuffle': 'global',
      'buffer': 4096,
      'cache_mib': 64,
      'max_bad_share': 0.01,
      'drop_bad_validation': False,
      'synthetic': {'classes': 3, 'train': 21, 'validation': 7},
    }
  )
  config.update(changes)
  return config


def make_store_config(source: str = 'synthetic', **changes: Any) -> ml_collections.ConfigDict:
  """Returns the groups of a config that `prepare` uses: `data`, and `prepare` with shards of 5 images."""
  settings = {
    'format': 'jpeg',
    'quality': 95,
    'subsampling': '420',
    'shard_images': 5,
    'shuffle': True,
  }
  data = make_config(source)
  for key, value in changes.items():
    (settings if key in settings else data)[key] = value
  return ml_collections.ConfigDict({'data': data, 'prepare': settings})


def take(iterator: Iterator, number: int) -> list:
  """Returns the first items of a generator, and closes it."""
  items = list(itertools.islice(iterator, number))
  iterator.close()
  return items


def contents(folder: pathlib.Path) -> dict[str, bytes]:
  """Returns the bytes of every file in a folder."""
  return {path.name: path.read_bytes() for path in folder.iterdir()}
