"""Splits of encoded images with labels, the source that holds them, and the held-out split."""

from collections.abc import Callable
import dataclasses
import errno
import os
from typing import Any

import numpy as np

from alexnet_jax.errors import RunError

_DISK = 'bring its disk or network folder back, or restore the file'
_LIMIT = 'raise the limit of open files (ulimit -n)'
# Errors of a disk, a network folder or this process, and what helps. All later images would be skipped
# because of them.
_OUT_OF_REACH = {
  errno.EIO: _DISK,
  errno.ESTALE: _DISK,
  errno.ETIMEDOUT: _DISK,
  errno.ENOTCONN: _DISK,
  errno.EMFILE: _LIMIT,
  errno.ENFILE: _LIMIT,
}


@dataclasses.dataclass(frozen=True)
class Split:
  """The images of one split.

  Attributes:
    labels: class of each image, int32 [N].
    read: returns image i as encoded bytes or as uint8 pixels [H, W(, 3)]. It can be called from
      many threads and raises OSError if the image cannot be read.
    name: returns the name of image i for messages. All names together identify the content of the
      split.
    fill: writes image i to a uint8 [S, S, 3] array, where the images are stored as canvases; else
      None. It can be called from many threads and raises OSError or ValueError.
    form: `jpeg` or `raw` where the images are stored as canvases in that form; else ''.
    sequential: whether random access is slow.
  """

  labels: np.ndarray
  read: Callable[[int], bytes | np.ndarray]
  name: Callable[[int], str]
  fill: Callable[[int, np.ndarray], None] | None = None
  form: str = ''
  sequential: bool = False

  def __len__(self) -> int:
    return len(self.labels)

  def select(self, rows: np.ndarray) -> 'Split':
    """Returns the split of the images `rows` (int [M]) alone, in that order."""
    fill = self.fill

    def fill_selected(i: int, out: np.ndarray) -> None:
      assert fill is not None
      fill(int(rows[i]), out)

    return Split(
      self.labels[rows],
      lambda i: self.read(int(rows[i])),
      lambda i: self.name(int(rows[i])),
      fill_selected if fill else None,
      self.form,
      self.sequential,
    )


@dataclasses.dataclass(frozen=True)
class Source:
  """The images that `config.data.source` names.

  Attributes:
    train: the training images.
    validation: the validation images; None if the source has none and none could be held out.
    class_names: names of the classes, in the order of the labels.
    class_titles: names of the classes in words, in the same order, if the source stores them, else None.
    statistics: a `statistics.Statistics` of the training images if the source stores one, else None.
  """

  train: Split
  validation: Split | None
  class_names: tuple[str, ...]
  statistics: Any = None
  class_titles: tuple[str, ...] | None = None


def check_reach(name: str, error: Exception) -> None:
  """Raises RunError if an image cannot be read for a reason that all images share.

  Args:
    name: the name of the image.
    error: the error that reading or decoding it raised.

  Raises:
    RunError: the disk or the network folder failed, or too many files are open.
  """
  remedy = _OUT_OF_REACH.get(error.errno or 0) if isinstance(error, OSError) else None
  if remedy:
    raise RunError(
      f'{name} cannot be read ({error}): {remedy}, then run the same command again'
    ) from error


def generator(seed: int, index: int, purpose: int) -> np.random.Generator:
  """Returns a random number generator for each (seed, index, purpose), the same on every machine."""
  key = np.array([seed % 2**64, index], np.uint64)
  return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, purpose]))


def hold_out(strata: np.ndarray, share: float, seed: int) -> np.ndarray:
  """Draws a stratified share of the images.

  About share * N images are drawn in total (rounded half up, and at least one if the share is not
  0). They are divided among the strata by the largest-remainder method; the seed breaks ties. Every
  stratum keeps at least one image, so a stratum of one image gives none.

  Args:
    strata: stratum of each image, int [N].
    share: the share to hold out, 0 <= share < 1.
    seed: any integer.

  Returns:
    bool [N], True for the images that are held out.
  """
  held = np.zeros(len(strata), bool)
  if not share or not len(strata):
    return held
  rng = generator(seed, 0, purpose=1)
  values, counts = np.unique(strata, return_counts=True)
  quotas = np.minimum(share * counts, counts - 1)
  wanted = np.floor(quotas).astype(int)
  missing = max(1, int(share * len(strata) + 0.5)) - wanted.sum()
  order = np.lexsort((rng.random(len(values)), wanted - quotas))
  wanted[[k for k in order if wanted[k] < counts[k] - 1][: max(0, missing)]] += 1
  groups = np.split(np.argsort(strata, kind='stable'), np.cumsum(counts)[:-1])
  for group, number in zip(groups, wanted, strict=True):
    held[rng.permutation(group)[:number]] = True
  return held


def split_off(
  images: Split, strata: np.ndarray, share: float, seed: int
) -> tuple[Split, Split | None]:
  """Divides `images` into (training, held-out images or None); see `hold_out`."""
  held = hold_out(strata, share, seed)
  validation = images.select(np.flatnonzero(held)) if held.any() else None
  return images.select(np.flatnonzero(~held)), validation


def cores() -> int:
  """Returns the number of CPU cores that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
