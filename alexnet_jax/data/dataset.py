"""Batches of uint8 canvases as a function of (seed, step) alone.

Training reads the endless concatenation of one permutation of the training images per epoch; batch
s is rows [sB, (s+1)B) of it. Sets whose canvases fit into memory are decoded once; larger ones
stream through threads or tf.data. All give the same batches, bit for bit.
"""

import atexit
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
import contextlib
import functools
import itertools
import os
import threading
from typing import Any
import weakref
import zlib

from absl import logging
import numpy as np
from tqdm import tqdm

from alexnet_jax.data import pipeline
from alexnet_jax.data import statistics as stats
from alexnet_jax.data.decode import Canvas, decode_canvas
from alexnet_jax.data.order import batch_indices
from alexnet_jax.data.prefetch import prefetch
from alexnet_jax.data.sources import open_source
from alexnet_jax.data.splits import Source, Split, cores
from alexnet_jax.errors import RunError, UserError

Batch = dict[str, np.ndarray]

_AHEAD = 2  # batches made ahead of the consumer
_STATISTICS_BATCH = 64


class _Images:
  """The canvases of one split, decoded on demand or once and for all.

  Args:
    split: the encoded images, N of them.
    canvas: how they become canvases of S x S.
    skip: called with (index, reason) for an image that cannot be decoded; may raise.
  """

  def __init__(self, split: Split, canvas: Canvas, skip: Callable[[int, str], None]):
    self.split = split
    self._shape = (canvas.size, canvas.size, 3)
    self._canvas = canvas
    self._skip = skip
    self._lock = threading.Lock()
    self._kept: tuple[np.ndarray, np.ndarray] | None = None
    self.summing = False  # whether `checksums` are wanted: CRC-32 of an image, 0 where it failed
    self.checksums = np.zeros(len(split), np.uint32)

  def keep(self, threads: int) -> None:
    """Decodes the whole split into memory, unless that has been done."""
    with self._lock:
      if self._kept is not None:
        return
      n, self.summing = len(self.split), True
      images, good = np.zeros((n, *self._shape), np.uint8), np.zeros(n, bool)

      def decode(i: int) -> None:
        good[i] = self._decode(i, images[i])

      with ThreadPoolExecutor(threads) as pool:
        decoded = pool.map(decode, range(n))
        for _ in tqdm(decoded, total=n, desc='decoding', unit='image', disable=None):
          pass
      self._kept = images, good

  def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Canvases of `indices` (int64 [b]; -1 is padding).

    Returns:
      uint8 [b, S, S, 3] and a mask, bool [b]; canvases are zero where the mask is False.
    """
    kept = self._kept
    if kept is not None:
      images, good = kept
      mask = good[indices] & (indices >= 0)
      result = np.take(images, indices, axis=0, mode='wrap')
      result[~mask] = 0
      return result, mask
    result = np.empty((len(indices), *self._shape), np.uint8)
    return result, self.fill(indices, result)

  def fill(self, indices: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Decodes `indices` (int64 [b]; -1 is padding) into `out`, uint8 [b, S, S, 3].

    Returns:
      A mask, bool [b]; canvases are zero where it is False.
    """
    mask = [i >= 0 and self._decode(int(i), one) for i, one in zip(indices, out, strict=True)]
    out[~np.asarray(mask, bool)] = 0
    return np.asarray(mask, bool)

  def _decode(self, i: int, out: np.ndarray) -> bool:
    """Writes canvas i to `out`, uint8 [S, S, 3]; False if it cannot be decoded."""
    try:
      if self.split.fill:
        self.split.fill(i, out)
        read: bytes | np.ndarray = out
      else:
        read = self.split.read(i)
        out[...] = decode_canvas(read, self._canvas)
      if self.summing:
        self.checksums[i] = zlib.crc32(read if isinstance(read, bytes) else read.data)
    except (ValueError, OSError) as error:
      self._skip(i, str(error))
      return False
    return True


class Dataset:
  """Batches of a source; made by `open_dataset`.

  A batch is a dict of `image` uint8 [b, S, S, 3] (RGB), `label` int32 [b], `mask` bool [b] and
  `index` int32 [b], the number of the image in its split. An image that cannot be
  decoded is zero with mask False and keeps its label and index; padding has label 0, index -1.

  Attributes:
    class_names: names in the order of the labels.
    train_labels: int32 [num_train].
    validation_labels: int32 [num_validation], or None without a validation split.
    num_train, num_validation: numbers of images.
    train_counts: training images of each class, int64 [classes].
    cached: whether the canvases are kept in memory.
  """

  def __init__(self, source: Source, config_data: Any, seed: int):
    self._canvas = Canvas.from_config(config_data.canvas)
    self._seed = seed
    self._source_name = config_data.source
    self._max_bad_share = config_data.max_bad_share
    self._threads = config_data.threads
    self._loader = config_data.loader
    self._shuffle, self._buffer = config_data.shuffle, config_data.buffer
    self._lock = threading.Lock()
    self._skipped: dict[tuple[str, int], str] = {}
    self._iterators: weakref.WeakSet[Generator[Batch]] = weakref.WeakSet()
    splits = {'train': source.train, 'validation': source.validation}
    self._images = {
      name: _Images(split, self._canvas, functools.partial(self._skip, name))
      for name, split in splits.items()
      if split is not None
    }
    self._statistics = source.statistics
    self.class_names = source.class_names
    self.train_labels = source.train.labels
    self.validation_labels = source.validation.labels if source.validation else None
    self.num_train = len(source.train)
    self.num_validation = len(source.validation) if source.validation else 0
    self.train_counts = np.bincount(self.train_labels, minlength=len(self.class_names))
    canvas_bytes = (self.num_train + self.num_validation) * self._canvas.size**2 * 3
    self.cached = canvas_bytes <= config_data.cache_mib * 2**20
    _open.add(self)

  @property
  def skipped(self) -> tuple[tuple[str, str, str], ...]:
    """(split, name of the image, reason) of each image that could not be decoded so far."""
    with self._lock:
      found = sorted(self._skipped.items())
    return tuple((split, self._images[split].split.name(i), why) for (split, i), why in found)

  def train_name(self, index: int) -> str:
    """What to call a training image: the path of its file, where it has one."""
    return self._images['train'].split.name(index)

  def train_batches(
    self, start_step: int, batch_size: int, rows: np.ndarray | None = None
  ) -> Generator[Batch]:
    """Endless training batches, from `start_step` on.

    Args:
      start_step: step of the first batch.
      batch_size: B, the global batch.
      rows: the places of the global batch to make, int [b], as `parallel.local_rows` gives a process
        of several; None for all of them.

    Raises:
      RunError: while iterating, more images than `config.data.max_bad_share` are undecodable.
    """
    rows = _places(batch_size, rows)

    def plan(step: int) -> np.ndarray:
      indices = batch_indices(
        self._seed, step, batch_size, self.num_train, self._shuffle, self._buffer
      )
      return indices[rows]

    return self._batches('train', plan, start_step, None)

  def eval_batches(
    self, batch_size: int, rows: np.ndarray | None = None, split: str = 'validation'
  ) -> Iterator[Batch]:
    """Every image of a split exactly once, in order; the last batch is padded.

    Args:
      batch_size: the global batch.
      rows: as in `train_batches`; all processes get the same number of batches.
      split: 'validation' or 'train'.

    Raises:
      UserError: there is no such split.
      RunError: as `train_batches`.
    """
    rows = _places(batch_size, rows)
    if split not in self._images:
      raise UserError(f'{self._source_name} has no {split} images; see config.data.holdout')
    n = len(self._images[split].split)

    def plan(step: int) -> np.ndarray:
      indices = np.arange(step * batch_size, (step + 1) * batch_size)[rows]
      return np.where(indices < n, indices, -1)

    return self._batches(split, plan, 0, -(-n // batch_size))

  def canvases(self, split: str, indices: Sequence[int]) -> np.ndarray:
    """Single images of a split by their numbers: uint8 [b, S, S, 3], zeros for an undecodable one."""
    return self._images[split].take(np.asarray(indices, np.int64))[0]

  def preload(self) -> None:
    """Decodes every split of a set that is kept in memory, so that bad images are found at once.

    Raises:
      UserError: a validation image cannot be decoded.
      RunError: as `train_batches`.
    """
    if self.cached:
      for images in self._images.values():
        images.keep(self._threads or cores())

  def checksums(self) -> dict[str, str]:
    """CRC-32 of every image, in hexadecimal, by split; nothing of a set that is not kept in memory."""
    kept = self._images.items() if self.cached else ()
    return {name: images.checksums.astype('>u4').tobytes().hex() for name, images in kept}

  def changed_since(self, before: Mapping[str, str]) -> list[str]:
    """Says of each image that it is not what it was when `before` was taken (`checksums`)."""
    changed = []
    for split, text in before.items():
      images = self._images[split]
      there = np.frombuffer(bytes.fromhex(text), '>u4')
      numbers = np.flatnonzero(there != images.checksums) if self.cached else ()
      changed += [f'{images.split.name(int(i))} has changed' for i in numbers]
    return changed[:3] + [f'and {len(changed) - 3} more'] * (len(changed) > 3)

  def statistics(
    self,
    cache_dir: str | None = None,
    share: tuple[int, int] = (0, 1),
    add_up: Callable[[stats.Sums], stats.Sums] | None = None,
  ) -> stats.Statistics:
    """Mean image and colour statistics of the training images; undecodable ones are left out.

    A store knows them already.

    Args:
      cache_dir: where the result is kept for the next run; None or '' keeps it nowhere.
      share: (i, n), read only images i, i + n, i + 2n, ...: the share of process i of n.
      add_up: gives the sums over all processes for those of this one.

    Raises:
      RunError: as `train_batches`, or no image could be decoded.
    """
    if self._statistics is not None:
      return self._statistics
    path = None
    if cache_dir:
      train = self._images['train'].split
      key = stats.fingerprint(self._source_name, self._canvas, train)
      path = os.path.join(cache_dir, f'statistics-{key}.npz')
      if (known := stats.load(path)) is not None:
        return known
    rows = np.arange(share[0], _STATISTICS_BATCH * share[1], share[1])
    batches = self.eval_batches(_STATISTICS_BATCH * share[1], rows, 'train')
    images = (image for batch in batches for image in batch['image'][batch['mask']])
    total = -(-self.num_train // share[1])
    bar = tqdm(images, total=total, desc='mean image', unit='image', disable=share[0] > 0 or None)
    sums = stats.add(bar, self._canvas.size)
    result = stats.from_sums(add_up(sums) if add_up else sums)
    if path:
      stats.save(path, result)
    return result

  def close(self) -> None:
    """Stops the threads of all iterators and frees the canvases."""
    for iterator in list(self._iterators):
      with contextlib.suppress(ValueError):  # it is at work in another thread, whose affair it is
        iterator.close()
    for images in self._images.values():
      images._kept = None

  def _batches(
    self, split: str, plan: Callable[[int], np.ndarray], start: int, stop: int | None
  ) -> Generator[Batch]:
    """Batches of the steps start..stop-1 (None: for ever); plan(step) gives their indices."""
    iterator = (self._gather if self.cached else self._stream)(split, plan, start, stop)
    self._iterators.add(iterator)
    return iterator

  def _gather(self, split: str, plan: Callable, start: int, stop: int | None) -> Generator[Batch]:
    """Batches from memory; the first call of next() decodes the split."""
    images = self._images[split]
    images.keep(self._threads or cores())
    steps: Iterable[int] = itertools.count(start) if stop is None else range(start, stop)

    def make(step: int) -> Batch:
      indices = plan(step)
      return _batch(*images.take(indices), indices, images.split.labels)

    yield from prefetch(map(make, steps), _AHEAD)

  def _stream(self, split: str, plan: Callable, start: int, stop: int | None) -> Generator[Batch]:
    """Batches made on the way, never more than a few at a time."""
    images = self._images[split]
    work = pipeline.Work(plan, images.fill, self._canvas.size, start, stop, self._threads)
    if self._loader == 'tf.data':
      made = pipeline.by_tf_data(work, f'config.data.loader={self._loader}')
    else:
      made = pipeline.by_threads(work)
    with contextlib.closing(made):
      for image, mask, indices in made:
        yield _batch(image, mask, indices, images.split.labels)

  def _skip(self, split: str, index: int, reason: str) -> None:
    """Notes an undecodable image; stops the run when there are too many in training, or one elsewhere.

    One bad file never stops a run that has others, however small the set.
    """
    with self._lock:
      known = (split, index) in self._skipped
      self._skipped[split, index] = reason
      bad = sorted(i for s, i in self._skipped if s == 'train')
    name = self._images[split].split.name
    if split != 'train':
      raise UserError(
        f'the {split} image {name(index)} cannot be decoded ({reason}): repair or remove it; a run that '
        'has begun can go on only with as many validation images as it had'
      )
    if not known:
      logging.warning('skipping %s image %s: %s', split, name(index), reason)
    n = self.num_train
    if len(bad) > min(max(1, self._max_bad_share * n), n - 1):
      raise RunError(
        f'{len(bad)} of {n} training images ({100 * len(bad) / n:.2g} %) cannot be decoded, among'
        f' them {", ".join(map(name, bad[:3]))}; repair or remove them, or raise'
        f' config.data.max_bad_share={self._max_bad_share}'
      )


_open: weakref.WeakSet[Dataset] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
  """Python cannot leave while tf.data waits for it to decode an image, so streams end first."""
  for dataset in list(_open):
    dataset.close()


def open_dataset(config_data: Any, seed: int) -> Dataset:
  """Opens the data set of `config.data`.

  Args:
    config_data: `config.data` (`data.keys` explains its keys).
    seed: `config.seed`; it draws the order of training.

  Raises:
    UserError: a value cannot be meant, or the source is missing or malformed.
  """
  return Dataset(open_source(config_data), config_data, seed)


def _places(batch_size: int, rows: np.ndarray | None) -> np.ndarray:
  """`rows`, or all places of a batch, int64 [b]."""
  return np.arange(batch_size) if rows is None else np.asarray(rows)


def _batch(image: np.ndarray, mask: np.ndarray, indices: np.ndarray, labels: np.ndarray) -> Batch:
  """Puts a batch together; `labels` are those of the whole split."""
  label = np.where(indices >= 0, labels[indices], 0).astype(np.int32)
  return {'image': image, 'label': label, 'mask': mask, 'index': indices.astype(np.int32)}
