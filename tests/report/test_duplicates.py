"""Copies of an image are found, and other images of the same kind are not."""

import io

import numpy as np
from PIL import Image

from alexnet_jax.report import duplicates


def _picture(seed: int) -> np.ndarray:
  """Returns a smooth random picture, uint8 [96, 96, 3]."""
  small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
  return np.asarray(Image.fromarray(small).resize((96, 96), Image.Resampling.BICUBIC))


def _compressed(picture: np.ndarray) -> np.ndarray:
  stream = io.BytesIO()
  Image.fromarray(picture).resize((70, 70)).save(stream, 'JPEG', quality=60)
  return np.asarray(Image.open(stream).resize((96, 96)))


def test_likeness():
  """A copy is identical; one that was scaled, compressed or mirrored is nearly identical."""
  picture = _picture(0)
  assert duplicates.likeness(picture, picture.copy()) == 'identical'
  assert duplicates.likeness(picture, _compressed(picture)) == 'nearly identical'
  assert duplicates.likeness(picture, _compressed(picture)[:, ::-1]) == 'nearly identical'
  assert not any(duplicates.likeness(picture, _picture(seed)) for seed in range(1, 20))
  black = np.zeros_like(picture)
  assert duplicates.likeness(black, black + 1) == ''


def test_digests():
  """Equal images have equal digests."""
  first, second = _picture(0), _picture(1)
  a, b, c = duplicates.digests(np.stack([first, second, first]))
  assert a == c != b and len(a) == 8
