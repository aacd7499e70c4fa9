"""The two loaders, threads and tf.data, give the same batches in the same order."""

import itertools

import chex
from data_helpers import make_config, make_store_config, take
import numpy as np
import pytest

from alexnet_jax.data import open_dataset, pipeline
from alexnet_jax.data.prepare import prepare


@pytest.mark.parametrize('form', ['jpeg', 'raw'])
def test_a_store_gives_the_same_batches_with_every_loader(tmp_path, form):
  prepare(make_store_config(format=form), str(tmp_path / 'store'))
  config = make_config(f'store:{tmp_path / "store"}')
  cached = open_dataset(config, 3)
  assert cached.cached
  expected = take(cached.train_batches(0, 8), 7)
  config.cache_mib = 0
  for threads, loader in itertools.product((1, 2, 5), ('threads', 'tf.data')):
    config.threads, config.loader = threads, loader
    streamed = open_dataset(config, 3)
    assert not streamed.cached
    chex.assert_trees_all_equal(take(streamed.train_batches(4, 8), 3), expected[4:])
    chex.assert_trees_all_equal(list(streamed.eval_batches(3)), list(cached.eval_batches(3)))


def numbered_plan(start, stop, batch_size=20, threads=2):
  """Returns a plan whose images contain their own index. Multiples of 7 cannot be decoded."""

  def fill(indices, out):
    out[...] = indices[:, None, None, None]
    return indices % 7 != 0

  def indices(step):
    return np.arange(step * batch_size, (step + 1) * batch_size) % 200

  return pipeline.BatchPlan(indices, fill, 4, start, stop, threads)


def load(loader, plan):
  if loader == 'threads':
    return pipeline.threaded_batches(plan)
  return pipeline.tf_data_batches(plan, 'the test')


@pytest.mark.parametrize('loader', ['threads', 'tf.data'])
@pytest.mark.parametrize('batch_size', [1, 16, 17, 40])
def test_batches_are_in_order(loader, batch_size):
  for threads in (0, 1, 3):
    plan = numbered_plan(2, 6, batch_size, threads)
    batches = list(load(loader, plan))
    assert len(batches) == 4
    for step, (images, mask, indices) in enumerate(batches, 2):
      chex.assert_trees_all_equal(indices, plan.indices(step))
      chex.assert_trees_all_equal(mask, indices % 7 != 0)
      chex.assert_shape(images, (batch_size, 4, 4, 3))
      assert (images == indices[:, None, None, None]).all()


@pytest.mark.parametrize('loader', ['threads', 'tf.data'])
def test_endless_and_empty_plans(loader):
  batches = load(loader, numbered_plan(3, None))
  assert [next(batches)[2][0] for _ in range(4)] == [60, 80, 100, 120]
  batches.close()
  assert list(load(loader, numbered_plan(3, 3))) == []


@pytest.mark.parametrize('loader', ['threads', 'tf.data'])
def test_an_error_keeps_its_type(loader):
  def fill(indices, out):
    raise KeyError(int(indices[0]))

  with pytest.raises(KeyError):
    next(load(loader, numbered_plan(0, None)._replace(fill=fill)))
