"""Threads that work ahead keep the order, pass errors on, and end."""

from concurrent.futures import ThreadPoolExecutor
import itertools
import threading

import pytest

from alexnet_jax.utils.prefetch import map_ahead, prefetch


def prefetch_threads():
  return {thread for thread in threading.enumerate() if thread.name == 'prefetch'}


def test_prefetch_stops_and_passes_errors_on():
  before = prefetch_threads()
  iterator = prefetch(itertools.count(), 2)
  assert [next(iterator) for _ in range(3)] == [0, 1, 2]
  iterator.close()
  assert list(prefetch(iter(range(5)), 2)) == list(range(5))
  found = []
  with pytest.raises(ZeroDivisionError):
    for x in prefetch((1 // (2 - i) for i in range(9)), 2):
      found.append(x)
  assert found == [0, 1]
  assert prefetch_threads() <= before  # other tests may have left some


def test_map_ahead_keeps_the_order_and_a_bounded_lead():
  begun = []

  def work(x):
    begun.append(x)
    return 10 * x

  with ThreadPoolExecutor(3) as pool:
    results = map_ahead(pool, work, itertools.count(), 4)
    for expected in range(20):
      assert next(results) == 10 * expected
      assert len(begun) <= expected + 6
    results.close()
    assert list(map_ahead(pool, work, range(3), 4)) == [0, 10, 20]


def test_map_ahead_raises_an_error_at_its_position():
  with ThreadPoolExecutor(2) as pool:
    results = map_ahead(pool, lambda x: 1 // (2 - x), range(9), 3)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
      next(results)
