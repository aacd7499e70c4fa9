"""Every epoch has every image once, and the order gives random access to batches."""

import tracemalloc

import chex
import numpy as np
import pytest

from alexnet_jax.data import batch_indices, epoch_permutation
from alexnet_jax.data.order import BLOCK, buffered_permutation


@pytest.mark.parametrize(
  ('batch_size', 'n'), [(4, 12), (5, 12), (12, 12), (50, 12), (3, 1), (7, 2)]
)
def test_every_epoch_has_every_image_once(batch_size, n):
  steps = 3 * n  # a whole number of epochs
  order = np.concatenate([batch_indices(7, s, batch_size, n) for s in range(steps)])
  assert order.dtype == np.int64
  for epoch, rows in enumerate(order.reshape(-1, n)):
    chex.assert_trees_all_equal(np.sort(rows), np.arange(n))
    chex.assert_trees_all_equal(rows, epoch_permutation(7, epoch, n))
  plain = np.concatenate([batch_indices(7, s, batch_size, n, 'stored') for s in range(steps)])
  chex.assert_trees_all_equal(plain, np.arange(steps * batch_size) % n)


@pytest.mark.parametrize('n', [1, 127, 128, 1000])
@pytest.mark.parametrize('buffer', [1, 256, 5000])
def test_a_buffered_order_is_a_local_permutation(n, buffer):
  for epoch in (0, 1):
    order = buffered_permutation(3, epoch, n, buffer)
    chex.assert_trees_all_equal(np.sort(order), np.arange(n))
    for start in range(0, n, buffer):
      blocks = np.unique(order[start : start + buffer] // BLOCK)
      assert len(blocks) <= -(-buffer // BLOCK) + 2
  orders = [buffered_permutation(s, e, 1000, 256) for s in (0, 1) for e in (0, 1)]
  assert len({tuple(order) for order in orders}) == 4


def test_seeds_and_epochs_differ():
  orders = [epoch_permutation(s, e, 50) for s in (-1, 0, 1) for e in (0, 1)]
  assert len({tuple(order) for order in orders}) == 6


@pytest.mark.parametrize('shuffle', ['global', 'stored', 'buffer'])
def test_batches_are_cut_out_of_the_epochs(shuffle):
  whole = np.concatenate([batch_indices(3, epoch, 300, 300, shuffle, 256) for epoch in range(7)])
  for batch_size in (1, 7, 300, 650):
    steps = len(whole) // batch_size
    order = np.concatenate(
      [batch_indices(3, step, batch_size, 300, shuffle, 256) for step in range(steps)]
    )
    assert order.dtype == np.int64
    chex.assert_trees_all_equal(order, whole[: steps * batch_size])


def test_a_batch_needs_little_memory():
  n = 10**6
  batch_indices(0, 0, 8, n)  # draws the order of the epoch, which is kept
  tracemalloc.start()
  try:
    batch_indices(0, 1, 8, n)
    assert tracemalloc.get_traced_memory()[1] < n
  finally:
    tracemalloc.stop()
