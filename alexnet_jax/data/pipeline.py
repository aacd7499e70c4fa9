"""The two loaders of data sets that are not kept in memory: tf.data, and Python threads.

Both give the same batches. `tf_data_graph` is the tf.data pipeline:

  range      the steps; a resumed run begins its graph at its step
  map        the images of a step, in the project's own order (`order.py`): int64 [b]
  unbatch    chunks of at most 32 images
  map        read by index and decoded to canvases, in parallel: uint8 [c, S, S, 3]
  batch      uint8 [b / c, c, S, S, 3]
  prefetch   two batches

`decode.py` decodes the images for both loaders. The canvases of a raw store need no decoding: one Python call
reads a batch.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
import functools
import itertools
import math
from typing import Any, NamedTuple

from absl import logging
import numpy as np

from alexnet_jax.utils.optional_import import import_tensorflow
from alexnet_jax.utils.prefetch import map_ahead

_AHEAD = 2  # number of batches produced ahead of the consumer
_ALIGNED = 64  # bytes; the alignment of arrays that TensorFlow uses without a copy
_CHUNK = 16  # images per task of a thread; one image per task costs about 8 % more CPU time
_TF_CHUNK = 32  # images per call in tf.data

# (images uint8 [b, S, S, 3], mask bool [b], indices int64 [b])
ImageBatch = tuple[np.ndarray, np.ndarray, np.ndarray]


class BatchPlan(NamedTuple):
  """The batches to produce.

  Attributes:
    indices: returns the image indices of a step, int64 [b]; -1 is padding.
    fill: decodes the images of some indices, int64 [c], into uint8 [c, S, S, 3] and returns a mask,
      bool [c].
    form: what the source holds: `jpeg` or `raw` canvases, or '' for images that have to be scaled.
    size: S, the side of the canvas in pixels.
    start: the first step.
    stop: the step after the last one, or None for an endless sequence.
    threads: number of decoding threads.
  """

  indices: Callable[[int], np.ndarray]
  fill: Callable[[np.ndarray, np.ndarray], np.ndarray]
  form: str
  size: int
  start: int
  stop: int | None
  threads: int

  def new(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the canvases of some indices (int64 [c]), uint8 [c, S, S, 3], and their mask, bool [c].

    The array begins at a multiple of 64 bytes: TensorFlow would copy any other.
    """
    shape = len(indices), self.size, self.size, 3
    buffer = np.empty(math.prod(shape) + _ALIGNED, np.uint8)
    start = -buffer.ctypes.data % _ALIGNED
    images = buffer[start : start + math.prod(shape)].reshape(shape)
    return images, self.fill(indices, images)

  def steps(self) -> Iterable[int]:
    """Returns all steps, in order."""
    return itertools.count(self.start) if self.stop is None else range(self.start, self.stop)


Loader = Callable[[BatchPlan], Generator[ImageBatch]]


def open_loader(name: str, source: str) -> Loader:
  """Returns the loader of `config.data.loader`, and logs which one reads the source.

  Args:
    name: `threads`, `tf.data`, or `auto`, which is tf.data if TensorFlow can be imported and else
      threads.
    source: `config.data.source`, for the log.

  Raises:
    UserError: the loader is `tf.data`, and TensorFlow is not installed.
  """
  reason = 'config.data.loader=threads'
  if name != 'threads':
    try:
      tf = import_tensorflow(f'config.data.loader={name}')
    except Exception as error:  # an installation that is broken raises many types
      if name != 'auto':
        raise
      reason = f'TensorFlow is not installed ({error.__cause__ or error})'
    else:
      logging.info('tf.data reads %s', source)
      return functools.partial(tf_data_batches, tf)
  logging.info('Python threads read %s; %s', source, reason)
  return threaded_batches


def tf_data_graph(tf: Any, plan: BatchPlan, failures: list[Exception]) -> Any:
  """Returns the batches of a plan as a `tf.data.Dataset` of (images, mask, indices).

  Args:
    tf: the module tensorflow.
    plan: the batches.
    failures: a list to which the exceptions of `plan.fill` are appended, since TensorFlow would replace them
      by its own. The data set then raises InvalidArgumentError.

  Returns:
    The data set. The elements have the form uint8 [b / c, c, S, S, 3], bool [b / c, c] and int64 [b / c, c],
    or for raw canvases uint8 [b, S, S, 3], bool [b] and int64 [b].
  """
  b, threads = len(plan.indices(plan.start)), plan.threads
  canvas = [plan.size, plan.size, 3]
  c = b if plan.form == 'raw' else max(c for c in range(1, _TF_CHUNK + 1) if b % c == 0)

  def images_of(step):
    return tf.ensure_shape(tf.numpy_function(plan.indices, [step], tf.int64), [b])

  def new(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    try:
      return plan.new(indices)
    except Exception as error:
      failures.append(error)
      return np.zeros(0, np.uint8), np.zeros(0, bool)

  def decode(indices):
    images, mask = tf.numpy_function(new, [indices], (tf.uint8, tf.bool))
    return tf.ensure_shape(images, [c, *canvas]), tf.ensure_shape(mask, [c]), indices

  steps = tf.data.Dataset.range(plan.start, tf.int64.max if plan.stop is None else plan.stop)
  batches = steps.map(images_of)
  if plan.form == 'raw':
    batches = batches.map(decode, num_parallel_calls=min(threads, _AHEAD))
  else:
    chunks = batches.map(lambda indices: tf.reshape(indices, [b // c, c])).unbatch()
    batches = chunks.map(decode, num_parallel_calls=threads).batch(b // c)
  options = tf.data.Options()
  options.deterministic = True
  options.threading.private_threadpool_size = threads
  return batches.prefetch(_AHEAD).with_options(options)


def tf_data_batches(tf: Any, plan: BatchPlan) -> Generator[ImageBatch]:
  """Produces the batches with tf.data."""
  failures: list[Exception] = []
  try:
    for images, mask, indices in tf_data_graph(tf, plan, failures).as_numpy_iterator():
      yield images.reshape(-1, *images.shape[-3:]), mask.reshape(-1), indices.reshape(-1)
  except tf.errors.InvalidArgumentError:
    if failures:
      raise failures[0] from None
    raise


def threaded_batches(plan: BatchPlan) -> Generator[ImageBatch]:
  """Produces the batches with Python threads, which decode straight into the batch.

  The decoders release the interpreter lock.
  """
  threads = plan.threads

  def chunks() -> Iterator[tuple[ImageBatch, int, int]]:
    for step in plan.steps():
      indices = plan.indices(step)
      b = len(indices)
      images = np.empty((b, plan.size, plan.size, 3), np.uint8)
      batch = images, np.empty(b, bool), indices
      for start in range(0, b, _CHUNK):
        yield batch, start, min(start + _CHUNK, b)

  def decode(chunk: tuple[ImageBatch, int, int]) -> tuple[ImageBatch, bool]:
    (images, mask, indices), start, end = chunk
    mask[start:end] = plan.fill(indices[start:end], images[start:end])
    return chunk[0], end == len(indices)

  if plan.stop is not None and plan.stop <= plan.start:
    return
  chunks_per_batch = -(-len(plan.indices(plan.start)) // _CHUNK)
  with ThreadPoolExecutor(threads, thread_name_prefix='decode') as pool:
    for batch, is_last in map_ahead(
      pool, decode, chunks(), max(threads, _AHEAD * chunks_per_batch)
    ):
      if is_last:
        yield batch
