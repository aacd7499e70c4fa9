"""The two parallel loaders: Python threads, and tf.data.

Both produce the same batches in the same order. The threads decode straight into the batch, which
saves the copies between Python and TensorFlow, and they need no TensorFlow. They are the default
because they are faster (RESULTS.md).
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
import itertools
from typing import NamedTuple

import numpy as np

from alexnet_jax.data.splits import cores
from alexnet_jax.utils.optional_import import import_tensorflow
from alexnet_jax.utils.prefetch import map_ahead

_AHEAD = 2  # number of batches produced ahead of the consumer
_CHUNK = 16  # images per task; one image per task costs about 8 % more CPU time

# (images uint8 [b, S, S, 3], mask bool [b], indices int64 [b])
ImageBatch = tuple[np.ndarray, np.ndarray, np.ndarray]


class BatchPlan(NamedTuple):
  """The batches to produce.

  Attributes:
    indices: returns the image indices of a step, int64 [b]; -1 is padding.
    fill: decodes the images of some indices, int64 [c], into uint8 [c, S, S, 3] and returns a mask,
      bool [c].
    size: S, the side of the canvas in pixels.
    start: the first step.
    stop: the step after the last one, or None for an endless sequence.
    threads: number of decoding threads; 0 means one per core.
  """

  indices: Callable[[int], np.ndarray]
  fill: Callable[[np.ndarray, np.ndarray], np.ndarray]
  size: int
  start: int
  stop: int | None
  threads: int

  def steps(self) -> Iterable[int]:
    """Returns all steps, in order."""
    return itertools.count(self.start) if self.stop is None else range(self.start, self.stop)


def threaded_batches(plan: BatchPlan) -> Generator[ImageBatch]:
  """Produces the batches with Python threads; the decoders release the interpreter lock."""
  threads = plan.threads or cores()

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


def tf_data_batches(plan: BatchPlan, need: str) -> Generator[ImageBatch]:
  """Produces the same batches with tf.data.

  Args:
    plan: the batches.
    need: the setting that requires TensorFlow, for the error message.

  Raises:
    UserError: TensorFlow is not installed.
  """
  tf = import_tensorflow(need)
  size, b = plan.size, len(plan.indices(plan.start))
  chunk = max(c for c in range(1, _CHUNK + 1) if b % c == 0)
  failures: list[Exception] = []

  def fill(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    images = np.empty((chunk, size, size, 3), np.uint8)
    try:
      return images, plan.fill(indices, images)
    except Exception as error:  # TensorFlow would replace the exception by one of its own
      failures.append(error)
      return images, np.zeros(chunk, bool)

  def chunked_indices(step):
    indices = tf.numpy_function(lambda s: plan.indices(int(s)).reshape(-1, chunk), [step], tf.int64)
    return tf.ensure_shape(indices, [b // chunk, chunk])

  def decode(indices):
    images, mask = tf.numpy_function(fill, [indices], [tf.uint8, tf.bool])
    images = tf.ensure_shape(images, [chunk, size, size, 3])
    return images, tf.ensure_shape(mask, [chunk]), indices

  steps = tf.data.Dataset.range(plan.start, tf.int64.max if plan.stop is None else plan.stop)
  dataset = steps.map(chunked_indices).unbatch()
  parallel_calls = plan.threads or tf.data.AUTOTUNE
  dataset = dataset.map(decode, num_parallel_calls=parallel_calls, deterministic=True)
  dataset = dataset.batch(b // chunk, drop_remainder=True).prefetch(_AHEAD)
  for images, mask, indices in dataset.as_numpy_iterator():
    if failures:
      raise failures[0]
    yield images.reshape(b, size, size, 3), mask.reshape(b), indices.reshape(b)
