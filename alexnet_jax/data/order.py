"""The order of the training images: a function of (seed, step) alone."""

import functools

import numpy as np

from alexnet_jax.data.splits import generator

# global: one permutation of all images per epoch.
# stored: 0 ... n-1 in every epoch, as the original code read them (docs/FACTS.md, section 3).
# buffer: blocks are permuted, then the images within each `buffer` of them. This is what a shuffle
#   buffer gives a reader of sequential files, but it is known in advance, so that a resumed run can
#   start at any step without reading the earlier images.
SHUFFLES = ('global', 'stored', 'buffer')
BLOCK = 128  # number of consecutive images that are read together


def epoch_permutation(seed: int, epoch: int, n: int) -> np.ndarray:
  """Returns the order of the training images in an epoch: a permutation of 0..n-1, int64 [n]."""
  return generator(seed, epoch, purpose=0).permutation(n)


def buffered_permutation(seed: int, epoch: int, n: int, buffer: int) -> np.ndarray:
  """Returns a permutation of 0..n-1, int64 [n]; a reader holds at most `buffer` images and one block."""
  rng = generator(seed, epoch, purpose=4)
  blocks = rng.permutation(-(-n // BLOCK))
  order = (blocks[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)
  order = order[order < n]
  for start in range(0, n, buffer):
    rng.shuffle(order[start : start + buffer])
  return order


@functools.lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, n: int, shuffle: str, buffer: int) -> np.ndarray:
  if shuffle == 'stored':
    return np.arange(n)
  if shuffle == 'buffer':
    return buffered_permutation(seed, epoch, n, buffer)
  return epoch_permutation(seed, epoch, n)


def batch_indices(
  seed: int, step: int, batch_size: int, n: int, shuffle: str = 'global', buffer: int = 1
) -> np.ndarray:
  """Returns rows [step * B, (step + 1) * B) of the concatenation of all epochs.

  Args:
    seed: `config.seed`.
    step: the step of the batch, from 0. Any step can be computed without the earlier ones.
    batch_size: B, the global batch size; it may be larger than n.
    n: number of training images.
    shuffle: one of `SHUFFLES`.
    buffer: number of images that are shuffled together if shuffle is `buffer`.

  Returns:
    Indices of training images, int64 [B].
  """
  start, stop = step * batch_size, (step + 1) * batch_size
  # The parts are cut out of the orders before they are joined, so that no order of a whole epoch is copied.
  parts = [
    _epoch_order(seed, epoch, n, shuffle, buffer)[max(start - epoch * n, 0) : stop - epoch * n]
    for epoch in range(start // n, (stop - 1) // n + 1)
  ]
  return np.concatenate(parts)
