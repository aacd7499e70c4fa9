"""Mean image and colour statistics of the training images (paper §2 and §4.1, FACTS §3)."""

from collections.abc import Iterable
import hashlib
import os
from typing import Any, NamedTuple

from absl import logging
import numpy as np

from alexnet_jax.data.splits import Split
from alexnet_jax.errors import RunError


class Statistics(NamedTuple):
  """What training needs to know of its images, in grey levels (0-255) and RGB.

  Attributes:
    mean_image: mean of each pixel of the canvas, float32 [S, S, 3].
    eigenvectors: of the covariance of all RGB pixels, in columns, float32 [3, 3]; the largest
      component of each is positive.
    deviations: sqrt(eigenvalue), ascending, float32 [3]. FACTS §3 gives 19.7, 37.1 and 121.8 for
      ILSVRC-2012 (the noise multiplies the deviation; the paper's formula says the variance).
  """

  mean_image: np.ndarray
  eigenvectors: np.ndarray
  deviations: np.ndarray


class Sums(NamedTuple):
  """Exact sums over canvases: all are integers, and float64 holds those of two million 256x256 ones.

  Sums of several processes add up to the very sums that one would have made.

  Attributes:
    count: canvases, float64 scalar.
    total: float64 [S, S, 3].
    moments: of the products of two channels over all pixels, float64 [3, 3].
  """

  count: np.ndarray  # type: ignore[assignment]  # tuples have a method of that name
  total: np.ndarray
  moments: np.ndarray


def add(images: Iterable[np.ndarray], size: int) -> Sums:
  """Adds up canvases, each uint8 [size, size, 3], in one pass."""
  sums = Sums(np.zeros(()), np.zeros((size, size, 3)), np.zeros((3, 3)))
  for image in images:
    pixels = image.reshape(-1, 3).astype(np.float64)
    for total, more in zip(sums, (np.ones(()), image, pixels.T @ pixels), strict=True):
      np.add(total, more, out=total)
  return sums


def covariance(sums: Sums) -> np.ndarray:
  """Covariance of the RGB pixels that were added up, in grey levels squared, float64 [3, 3]."""
  pixels = sums.count * sums.total[:, :, 0].size
  mean = sums.total.mean(axis=(0, 1)) / sums.count
  return sums.moments / pixels - np.outer(mean, mean)


def from_sums(sums: Sums) -> Statistics:
  """The statistics of the canvases that were added up.

  Raises:
    RunError: there are none.
  """
  if not sums.count:
    raise RunError('no training image could be decoded, so there is no mean image')
  mean_image = sums.total / sums.count
  variances, vectors = np.linalg.eigh(covariance(sums))
  vectors *= np.sign(vectors[np.argmax(np.abs(vectors), axis=0), range(3)])
  deviations = np.sqrt(np.maximum(variances, 0))  # a gray set has variances of 0, give or take
  return Statistics(*(x.astype(np.float32) for x in (mean_image, vectors, deviations)))


def fingerprint(source: str, canvas: Any, train: Split) -> str:
  """Hash of what determines the statistics: source, canvas settings, names and labels."""
  digest = hashlib.sha256(repr((source, tuple(canvas), len(train))).encode())
  digest.update(np.ascontiguousarray(train.labels).tobytes())
  for i in range(len(train)):
    digest.update(train.name(i).encode(errors='surrogateescape') + b'\0')
  return digest.hexdigest()[:32]


def load(path: str) -> Statistics | None:
  """Reads what `save` wrote; None if there is no file or a damaged one."""
  try:
    with np.load(path) as file:
      statistics = Statistics(**{field: file[field] for field in Statistics._fields})
  except FileNotFoundError:
    return None
  except Exception as error:  # numpy and zipfile raise many types on damaged files
    logging.warning('%s is damaged (%s) and is computed again', path, error)
    return None
  return statistics


def save(path: str, statistics: Statistics) -> None:
  """Writes an .npz under a temporary name and renames it, so that no reader sees half a file."""
  os.makedirs(os.path.dirname(path), exist_ok=True)
  temporary = f'{path}.{os.getpid()}'
  with open(temporary, 'wb') as file:
    np.savez(file, **statistics._asdict())
  os.replace(temporary, path)
