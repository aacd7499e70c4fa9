"""Mean image and colour statistics of the training images.

Sources: sections 2 and 4.1 of the paper, and docs/FACTS.md, section 3.
"""

from collections.abc import Iterable
import hashlib
import os
from typing import Any, NamedTuple

from absl import logging
import numpy as np

from alexnet_jax.data.splits import Split
from alexnet_jax.errors import RunError
from alexnet_jax.utils import atomic_io

_FLAT = 1e-9  # share of the largest variance that is rounding


class Statistics(NamedTuple):
  """Statistics of the training images, in grey levels (0-255) and RGB.

  Attributes:
    mean_image: mean of each pixel of the canvas, float32 [S, S, 3].
    eigenvectors: eigenvectors of the covariance of all RGB pixels, in columns, float32 [3, 3]; the
      component of each with the largest magnitude is positive. Those without variance have a fixed form
      (`_fixed_where_flat`).
    deviations: sqrt(eigenvalue), ascending, float32 [3]. FACTS section 3 gives 19.7, 37.1 and 121.8
      for ILSVRC-2012. The colour noise multiplies the deviation; the formula of the paper has the
      variance.
  """

  mean_image: np.ndarray
  eigenvectors: np.ndarray
  deviations: np.ndarray


class Sums(NamedTuple):
  """Exact sums over canvases.

  All values are integers, and float64 represents the sums over two million canvases of 256x256
  pixels exactly. So the sums of several processes add up to the sums of one process.

  Attributes:
    count: number of canvases, float64 scalar.
    total: sum of the canvases, float64 [S, S, 3].
    moments: sums of the products of two channels over all pixels, float64 [3, 3].
  """

  count: np.ndarray  # type: ignore[assignment]  # tuples have a method of that name
  total: np.ndarray
  moments: np.ndarray


def add(images: Iterable[np.ndarray], size: int) -> Sums:
  """Sums up canvases, each uint8 [size, size, 3], in one pass."""
  sums = Sums(np.zeros(()), np.zeros((size, size, 3)), np.zeros((3, 3)))
  for image in images:
    pixels = image.reshape(-1, 3).astype(np.float64)
    for total, more in zip(sums, (np.ones(()), image, pixels.T @ pixels), strict=True):
      np.add(total, more, out=total)
  return sums


def covariance(sums: Sums) -> np.ndarray:
  """Returns the covariance of the RGB pixels that were summed up, in grey levels squared, float64 [3, 3]."""
  pixels = sums.count * sums.total[:, :, 0].size
  mean = sums.total.mean(axis=(0, 1)) / sums.count
  return sums.moments / pixels - np.outer(mean, mean)


def _fixed_where_flat(variances: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Gives directions without variance a fixed form: variance 0, and vectors made from the colour axes.

  Gray images have two such directions. Any two orthogonal vectors are eigenvectors there, and which of
  them a library finds depends on the processor, so that runs differed among machines.

  Args:
    variances: eigenvalues, ascending, float64 [3].
    vectors: eigenvectors in columns, float64 [3, 3].
  """
  flat = variances <= _FLAT * max(variances[-1], 1.0)
  found = [vector for vector, none in zip(vectors.T, flat, strict=True) if not none]
  fixed: list[np.ndarray] = []
  for axis in np.eye(3):
    rest = axis - sum((v * (v @ axis) for v in found + fixed), np.zeros(3))
    length = np.linalg.norm(rest)
    if len(fixed) < flat.sum() and length > 0.1:  # less is left of an axis that the others span
      fixed.append(rest / length)
  return np.where(flat, 0.0, variances), np.stack([*fixed, *found], axis=1)


def from_sums(sums: Sums) -> Statistics:
  """Computes the statistics of the canvases that were summed up.

  Raises:
    RunError: there are no canvases.
  """
  if not sums.count:
    raise RunError('no training image can be decoded: check the files and the reasons logged above')
  mean_image = sums.total / sums.count
  variances, vectors = _fixed_where_flat(*np.linalg.eigh(covariance(sums)))
  vectors *= np.sign(vectors[np.argmax(np.abs(vectors), axis=0), range(3)])
  deviations = np.sqrt(variances)
  return Statistics(*(x.astype(np.float32) for x in (mean_image, vectors, deviations)))


def fingerprint(source: str, canvas: Any, train: Split) -> str:
  """Returns a hash of everything that determines the statistics: source, canvas, names and labels."""
  digest = hashlib.sha256(repr((source, tuple(canvas.settings().values()), len(train))).encode())
  digest.update(np.ascontiguousarray(train.labels).tobytes())
  for i in range(len(train)):
    digest.update(train.name(i).encode(errors='surrogateescape') + b'\0')
  return digest.hexdigest()[:32]


def load(path: str) -> Statistics | None:
  """Reads the file that `save` wrote; returns None if it is missing or damaged."""
  try:
    with np.load(path) as file:
      statistics = Statistics(**{field: file[field] for field in Statistics._fields})
    if not all(np.isfinite(x).all() for x in statistics):
      raise ValueError('it holds non-finite numbers')
  except FileNotFoundError:
    return None
  except Exception as error:  # numpy and zipfile raise many types on damaged files
    logging.warning('%s is damaged (%s) and will be computed again', path, error)
    return None
  return statistics


def save(path: str, statistics: Statistics) -> None:
  """Writes an .npz file under a temporary name and renames it, so that readers never see a partial file."""
  os.makedirs(os.path.dirname(path), exist_ok=True)
  with atomic_io.replacing(path) as file:
    np.savez(file, **statistics._asdict())
