"""Batches of uint8 canvases (decoded images of one size), as a function of (seed, step) alone.

Training reads the endless concatenation of one permutation of the training images per epoch: batch
s is rows [sB, (s+1)B) of it. A data set whose canvases fit into memory is decoded once. A larger one
is streamed, by tf.data or by Python threads. All three ways give the same batches, bit for bit.
"""

import atexit
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import functools
import itertools
import os
import threading
from typing import Any
import weakref
import zlib

from absl import logging
from ml_collections import FrozenConfigDict
import numpy as np
from tqdm import tqdm

from alexnet_jax.data import pipeline
from alexnet_jax.data import statistics as stats
from alexnet_jax.data.decode import Canvas
from alexnet_jax.data.images import SplitImages, find_undecodable
from alexnet_jax.data.order import batch_indices
from alexnet_jax.data.sources import open_source
from alexnet_jax.data.splits import Source, Split, cores
from alexnet_jax.errors import RunError, UserError
from alexnet_jax.utils.prefetch import prefetch

Batch = dict[str, np.ndarray]

_AHEAD = 2  # number of batches produced ahead of the consumer
_STATISTICS_BATCH = 64
_NAMED = 10  # number of bad validation images that an error names


class Dataset:
  """Batches of a source; `open_dataset` makes one.

  A batch is a dict of `image` uint8 [b, S, S, 3] (RGB), `label` int32 [b], `mask` bool [b] and
  `index` int32 [b], the index of the image in its split. An image that cannot be decoded is zero,
  has mask False, and keeps its label and index. Padding has mask False, label 0 and index -1.

  Attributes:
    class_names: names of the classes, in the order of the labels.
    class_titles: the same classes in words, if the source stores them, else None.
    train_labels: int32 [num_train].
    validation_labels: int32 [num_validation], or None without a validation split.
    num_train: number of training images.
    num_validation: number of validation images.
    train_counts: number of training images of each class, int64 [classes].
    form: `jpeg` or `raw` if the images are stored as canvases in that form, else ''.
    cached: whether the canvases are kept in memory.
    dropped: names of the validation images that `config.data.drop_bad_validation` leaves out.
  """

  def __init__(self, source: Source, config_data: Any, seed: int):
    self._config, self._seed = FrozenConfigDict(config_data), seed
    self._canvas = Canvas.from_config(config_data.canvas)
    self._threads = config_data.threads or cores()
    self._lock, self._search_lock = threading.Lock(), threading.Lock()
    self._bad_images = ''
    self._skipped: dict[tuple[str, int], str] = {}
    self._iterators: weakref.WeakSet[Generator[Batch]] = weakref.WeakSet()
    self.dropped: tuple[str, ...] = ()
    if config_data.drop_bad_validation:
      source = self._drop_bad_validation(source)
    splits = {'train': source.train, 'validation': source.validation}
    self._images = {
      name: SplitImages(split, self._canvas, functools.partial(self._on_error, name))
      for name, split in splits.items()
      if split is not None
    }
    self._statistics, self.form = source.statistics, source.train.form
    self.class_names, self.class_titles = source.class_names, source.class_titles
    self.train_labels = source.train.labels
    self.validation_labels = source.validation.labels if source.validation else None
    self.num_train = len(source.train)
    self.num_validation = len(source.validation) if source.validation else 0
    self.train_counts = np.bincount(self.train_labels, minlength=len(self.class_names))
    images = self.num_train + self.num_validation
    self._canvas_bytes = images * self._canvas.size**2 * 3
    self.cached = self._canvas_bytes <= config_data.cache_mib * 2**20
    _open_datasets.add(self)

  @property
  def skipped(self) -> tuple[tuple[str, str, str], ...]:
    """Returns (split, name of the image, reason) for each image found undecodable so far."""
    with self._lock:
      found = sorted(self._skipped.items())
    return tuple((split, self._images[split].split.name(i), why) for (split, i), why in found)

  def name(self, split: str, index: int) -> str:
    """Returns the name of an image of `train` or `validation`: the path of its file, if it has one."""
    return self._images[split].split.name(index)

  def train_batches(
    self, start_step: int, batch_size: int, rows: np.ndarray | None = None
  ) -> Generator[Batch]:
    """Yields training batches from `start_step` on, without end.

    Args:
      start_step: step of the first batch.
      batch_size: B, the global batch size.
      rows: the rows of the global batch to produce, int [b]. With several processes, each passes
        its own (`sharding.local_rows`). None means all rows.

    Raises:
      RunError: during iteration, if more than the share `config.data.max_bad_share` of the images
        cannot be decoded, or if an image is out of reach, such as on a disk that failed.
    """
    rows = _rows(batch_size, rows)

    def indices(step: int) -> np.ndarray:
      shuffle, buffer = self._config.shuffle, self._config.buffer
      return batch_indices(self._seed, step, batch_size, self.num_train, shuffle, buffer)[rows]

    return self._batches('train', indices, start_step, None)

  def eval_batches(
    self, batch_size: int, rows: np.ndarray | None = None, split: str = 'validation'
  ) -> Iterator[Batch]:
    """Yields every image of a split exactly once, in order; the last batch is padded.

    Args:
      batch_size: the global batch size.
      rows: as in `train_batches`; all processes get the same number of batches.
      split: 'validation' or 'train'.

    Raises:
      UserError: there is no such split; during iteration, a validation image cannot be decoded.
      RunError: as `train_batches`.
    """
    rows = _rows(batch_size, rows)
    if split not in self._images:
      raise UserError(f'{self._config.source} has no {split} images; see config.data.holdout')
    n = len(self._images[split].split)

    def indices(step: int) -> np.ndarray:
      numbers = np.arange(step * batch_size, (step + 1) * batch_size)[rows]
      return np.where(numbers < n, numbers, -1)

    return self._batches(split, indices, 0, -(-n // batch_size))

  def canvases(self, split: str, indices: Sequence[int]) -> np.ndarray:
    """Returns single images of a split, uint8 [b, S, S, 3]; an undecodable image is zero.

    Raises:
      UserError: a validation image cannot be decoded.
      RunError: as `train_batches`.
    """
    return self._images[split].take(np.asarray(indices, np.int64))[0]

  def preload(self, share: tuple[int, int] = (0, 1), is_new: bool = False) -> None:
    """Decodes all splits if they are kept in memory, so that bad images are found at once.

    Otherwise, for a new run, it decodes the validation images once, unless a store holds them.

    Args:
      share: (i, n) checks only the validation images i, i + n, i + 2n, ...: the share of process i of n.
      is_new: whether the run has not begun.

    Raises:
      UserError: a validation image cannot be decoded.
      RunError: as `train_batches`.
    """
    if self.cached:
      mib, limit = self._canvas_bytes / 2**20, self._config.cache_mib
      source = self._config.source
      logging.info(
        '%s is kept in memory: %.1f of %d MiB (config.data.cache_mib)', source, mib, limit
      )
      for images in self._images.values():
        images.keep_in_memory(self._threads)
    elif is_new and not self._config.drop_bad_validation and 'validation' in self._images:
      split = self._images['validation'].split
      part = split.select(np.arange(share[0], len(split), share[1]))
      if split.fill is None and (bad := find_undecodable(part, self._canvas, self._threads)):
        raise UserError(_list_bad(part, bad))

  def _drop_bad_validation(self, source: Source) -> Source:
    """Returns the source without the validation images that cannot be decoded, whose names it logs."""
    split = source.validation
    if split is None:
      return source
    bad = find_undecodable(split, self._canvas, self._threads)
    self.dropped = tuple(split.name(i) for i in bad)
    if bad:
      logging.warning(
        'config.data.drop_bad_validation leaves out %d of %d validation images: %s',
        len(bad),
        len(split),
        ', '.join(self.dropped),
      )
    kept = [i for i in range(len(split)) if i not in bad]
    rest = split.select(np.asarray(kept, np.int64)) if kept else None
    return dataclasses.replace(source, validation=rest)

  def checksums(self) -> dict[str, str]:
    """Returns the CRC-32 of every image in hexadecimal, for each split; empty unless the set is cached."""
    splits = self._images.items() if self.cached else ()
    return {name: images.checksums.astype('>u4').tobytes().hex() for name, images in splits}

  def changed_since(self, before: Mapping[str, str]) -> list[str]:
    """Returns messages about the images that differ from those of the earlier `checksums`, `before`."""
    changed = []
    for split, text in before.items():
      images = self._images[split]
      old = np.frombuffer(bytes.fromhex(text), '>u4')
      indices = np.flatnonzero(old != images.checksums) if self.cached else ()
      changed += [f'{images.split.name(int(i))} has changed' for i in indices]
    return changed[:3] + [f'and {len(changed) - 3} more'] * (len(changed) > 3)

  def statistics(
    self,
    cache_dir: str | os.PathLike | None = None,
    share: tuple[int, int] = (0, 1),
    add_up: Callable[[stats.Sums], stats.Sums] | None = None,
  ) -> stats.Statistics:
    """Returns mean image and colour statistics of the training images that can be decoded.

    A store contains them, so they are not computed for it.

    Args:
      cache_dir: folder in which the result is kept for the next run; None or '' keeps nothing.
      share: (i, n) reads only images i, i + n, i + 2n, ...: the share of process i of n.
      add_up: returns the sums over all processes, given the sums of this process.

    Raises:
      RunError: as `train_batches`, or if no image can be decoded.
    """
    if self._statistics is not None:
      return self._statistics
    path = None
    if cache_dir:
      train = self._images['train'].split
      key = stats.fingerprint(self._config.source, self._canvas, train)
      if self.cached:  # images may have been replaced under the same names
        self._images['train'].keep_in_memory(self._threads)
        key += f'-{zlib.crc32(bytes.fromhex(self.checksums()["train"])):08x}'
      path = os.path.join(cache_dir, f'statistics-{key}.npz')
      if (cached := stats.load(path)) is not None:
        return cached
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
    """Stops the threads of all iterators and frees the canvases in memory."""
    for iterator in list(self._iterators):
      with contextlib.suppress(ValueError):  # the iterator is running in another thread
        iterator.close()
    for images in self._images.values():
      images.free_memory()

  def _batches(
    self, split: str, indices: Callable[[int], np.ndarray], start: int, stop: int | None
  ) -> Generator[Batch]:
    """Yields the batches of the steps start..stop-1, or of all from start on if stop is None."""
    make_batches = self._cached_batches if self.cached else self._streamed_batches
    iterator = make_batches(split, indices, start, stop)
    self._iterators.add(iterator)
    return iterator

  def _cached_batches(
    self, split: str, indices: Callable[[int], np.ndarray], start: int, stop: int | None
  ) -> Generator[Batch]:
    """Yields batches from memory; the first call of next() decodes the split."""
    images = self._images[split]
    images.keep_in_memory(self._threads)
    steps: Iterable[int] = itertools.count(start) if stop is None else range(start, stop)

    def make_batch(step: int) -> Batch:
      numbers = indices(step)
      return _batch(*images.take(numbers), numbers, images.split.labels)

    yield from prefetch(map(make_batch, steps), _AHEAD)

  def _streamed_batches(
    self, split: str, indices: Callable[[int], np.ndarray], start: int, stop: int | None
  ) -> Generator[Batch]:
    """Yields batches that are decoded as they are read; only a few are in memory at a time."""
    images = self._images[split]
    plan = pipeline.BatchPlan(
      indices=indices,
      fill=images.fill,
      form=images.split.form,
      size=self._canvas.size,
      start=start,
      stop=stop,
      threads=self._threads,
    )
    with contextlib.closing(self._loader(plan)) as loaded:
      for image, mask, numbers in loaded:
        yield _batch(image, mask, numbers, images.split.labels)

  @functools.cached_property
  def _loader(self) -> pipeline.Loader:
    """Returns the loader; the first use logs its name and may import TensorFlow."""
    return pipeline.open_loader(self._config.loader, self._config.source)

  def _on_error(self, split: str, index: int, reason: str) -> None:
    """Records an undecodable image.

    Stops the run if it is a validation image, or if too many training images are undecodable. A
    single bad training image never stops a run that has others, however small the set is.
    """
    with self._lock:
      known = (split, index) in self._skipped
      self._skipped[split, index] = reason
      bad = sorted(i for s, i in self._skipped if s == 'train')
    name = self._images[split].split.name
    if split != 'train':
      with self._search_lock:  # threads that find bad images at the same time wait for one search
        if not self._bad_images:
          images = self._images[split].split
          found = find_undecodable(images, self._canvas, self._threads)
          self._bad_images = _list_bad(images, {index: reason} | found)
      raise UserError(self._bad_images)
    if not known:
      logging.warning('skipping %s image %s: %s', split, name(index), reason)
    n, max_share = self.num_train, self._config.max_bad_share
    if len(bad) > min(max(1, max_share * n), n - 1):
      raise RunError(
        f'{len(bad)} of {n} training images ({100 * len(bad) / n:.2g} %) cannot be decoded, for'
        f' example {", ".join(map(name, bad[:3]))}: repair or remove them, or raise'
        f' config.data.max_bad_share={max_share}'
      )


_open_datasets: weakref.WeakSet[Dataset] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
  """Closes all data sets, because Python cannot exit while tf.data waits for a Python function."""
  for dataset in list(_open_datasets):
    dataset.close()


def open_dataset(config_data: Any, seed: int) -> Dataset:
  """Opens the data set of `config.data`.

  Args:
    config_data: `config.data`; `data.keys` documents its keys.
    seed: `config.seed`; it draws the order of the training images.

  Raises:
    UserError: a value is not allowed, or the source is missing or malformed.
    RunError: `config.data.drop_bad_validation` is set, and a validation image is out of reach.
  """
  return Dataset(open_source(config_data), config_data, seed)


def _list_bad(split: Split, bad: Mapping[int, str]) -> str:
  """Returns an error message about validation images that cannot be decoded, given {index: reason}."""
  named = [f'{split.name(i)} ({reason})' for i, reason in sorted(bad.items())[:_NAMED]]
  more = f' and {len(bad) - _NAMED} more' if len(bad) > _NAMED else ''
  return (
    f'{len(bad)} of {len(split)} validation images cannot be decoded: {", ".join(named)}{more}: repair '
    'them; or, before a run begins, remove them or leave them out with '
    '--config.data.drop_bad_validation=True; a run that has begun needs the images that it had'
  )


def _rows(batch_size: int, rows: np.ndarray | None) -> np.ndarray:
  """Returns `rows`, or all rows of a batch if None, int64 [b]."""
  return np.arange(batch_size) if rows is None else np.asarray(rows)


def _batch(image: np.ndarray, mask: np.ndarray, indices: np.ndarray, labels: np.ndarray) -> Batch:
  """Assembles a batch; `labels` are those of the whole split."""
  label = np.where(indices >= 0, labels[indices], 0).astype(np.int32)
  return {'image': image, 'label': label, 'mask': mask, 'index': indices.astype(np.int32)}
