"""Two ways to make batches in parallel, ahead of their consumer: threads, and tf.data.

Both give the same batches in the same order. Threads decode straight into the batch, which saves the copies
between Python and TensorFlow, and need no TensorFlow; they are the default for being faster (RESULTS.md).
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
import itertools
from typing import NamedTuple

import numpy as np

from alexnet_jax.data.prefetch import map_ahead
from alexnet_jax.data.splits import cores
from alexnet_jax.utils.optional_import import import_tensorflow

_AHEAD = 2  # batches made ahead of the consumer
_CHUNK = 16  # at most so many images a call: one image a call costs about 8 % more CPU

# (images uint8 [b, S, S, 3], mask bool [b], indices int64 [b])
Made = tuple[np.ndarray, np.ndarray, np.ndarray]


class Work(NamedTuple):
  """What there is to make.

  Attributes:
    plan: the indices of the images of a step, int64 [b]; -1 is padding.
    fill: writes images of some indices, int64 [c], to uint8 [c, S, S, 3]; returns a mask, bool [c].
    size: S, of the canvas.
    start, stop: the first step, and the one after the last; None: there is no end.
    threads: that decode; 0: one a core.
  """

  plan: Callable[[int], np.ndarray]
  fill: Callable[[np.ndarray, np.ndarray], np.ndarray]
  size: int
  start: int
  stop: int | None
  threads: int

  def steps(self) -> Iterable[int]:
    """All steps, in order."""
    return itertools.count(self.start) if self.stop is None else range(self.start, self.stop)


def by_threads(work: Work) -> Generator[Made]:
  """Batches made by Python threads; the decoders let go of Python's lock while they work."""
  threads = work.threads or cores()

  def chunks() -> Iterator[tuple[Made, int, int]]:
    for step in work.steps():
      indices = work.plan(step)
      b = len(indices)
      image = np.empty((b, work.size, work.size, 3), np.uint8)
      batch = image, np.empty(b, bool), indices
      for first in range(0, b, _CHUNK):
        yield batch, first, min(first + _CHUNK, b)

  def make(chunk: tuple[Made, int, int]) -> tuple[Made, bool]:
    (image, mask, indices), first, end = chunk
    mask[first:end] = work.fill(indices[first:end], image[first:end])
    return chunk[0], end == len(indices)

  if work.stop is not None and work.stop <= work.start:
    return
  ahead = max(threads, _AHEAD * -(-len(work.plan(work.start)) // _CHUNK))
  with ThreadPoolExecutor(threads, thread_name_prefix='decode') as pool:
    for batch, last in map_ahead(pool, make, chunks(), ahead):
      if last:
        yield batch


def by_tf_data(work: Work, need: str) -> Generator[Made]:
  """The same batches through tf.data; raises UserError, that names `need`, without TensorFlow."""
  tf = import_tensorflow(need)
  size, b = work.size, len(work.plan(work.start))
  chunk = max(c for c in range(1, _CHUNK + 1) if b % c == 0)
  failures: list[Exception] = []

  def take(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    image = np.empty((chunk, size, size, 3), np.uint8)
    try:
      return image, work.fill(indices, image)
    except Exception as error:
      failures.append(error)  # raised here, it would reach the consumer as TensorFlow's own text
      return image, np.zeros(chunk, bool)

  def indices_of(step):
    numbers = tf.numpy_function(lambda s: work.plan(int(s)).reshape(-1, chunk), [step], tf.int64)
    return tf.ensure_shape(numbers, [b // chunk, chunk])

  def decode(indices):
    canvases, mask = tf.numpy_function(take, [indices], [tf.uint8, tf.bool])
    canvases = tf.ensure_shape(canvases, [chunk, size, size, 3])
    return canvases, tf.ensure_shape(mask, [chunk]), indices

  steps = tf.data.Dataset.range(work.start, tf.int64.max if work.stop is None else work.stop)
  chunks = steps.map(indices_of).unbatch()
  parallel = work.threads or tf.data.AUTOTUNE
  canvases = chunks.map(decode, num_parallel_calls=parallel, deterministic=True)
  batches = canvases.batch(b // chunk, drop_remainder=True).prefetch(_AHEAD)
  for image, mask, indices in batches.as_numpy_iterator():
    if failures:
      raise failures[0]
    yield image.reshape(b, size, size, 3), mask.reshape(b), indices.reshape(b)
