"""The two loaders, tf.data and threads, give the same batches in the same order."""

import itertools
import sys

import chex
from data_helpers import make_config, make_store_config, take
import numpy as np
import pytest

from alexnet_jax.data import open_dataset, pipeline
from alexnet_jax.data.decode import decode_stored, encode_jpeg
from alexnet_jax.data.prepare import prepare
from alexnet_jax.errors import UserError

LOADERS = ('threads', 'tf.data')
BOTH = pytest.mark.parametrize('loader', LOADERS)
STORES = {
  'jpeg': {'format': 'jpeg'},
  'jpeg with all colours': {'format': 'jpeg', 'subsampling': '444', 'quality': 80},
  'raw': {'format': 'raw'},
}


@pytest.mark.parametrize('form', ['folder', *STORES])
def test_every_source_gives_the_same_batches_with_both_loaders(tmp_path, make_folder, form):
  source = f'folder:{make_folder({"train/a": 11, "train/b": 10, "val/a": 4, "val/b": 3})}'
  if form in STORES:
    prepare(make_store_config(source, **STORES[form]), str(tmp_path / 'store'))
    source = f'store:{tmp_path / "store"}'
  config = make_config(source)
  cached = open_dataset(config, 3)
  assert cached.cached
  expected = take(cached.train_batches(0, 8), 7)
  assert all(batch['mask'].all() and batch['image'].std() > 10 for batch in expected)
  config.cache_mib = 0
  for threads, loader in itertools.product((1, 3), LOADERS):
    config.threads, config.loader = threads, loader
    streamed = open_dataset(config, 3)
    assert not streamed.cached
    for step in (0, 4):
      chex.assert_trees_all_equal(take(streamed.train_batches(step, 8), 3), expected[step:][:3])
    chex.assert_trees_all_equal(list(streamed.eval_batches(3)), list(cached.eval_batches(3)))


@BOTH
@pytest.mark.parametrize('damage', ['no image', 'cut off', 'of another size', 'unreadable'])
def test_a_damaged_image_of_a_jpeg_store_is_skipped(tmp_path, loader, damage):
  prepare(make_store_config(), str(tmp_path / 'store'))
  config = make_config(f'store:{tmp_path / "store"}', cache_mib=0, loader=loader, max_bad_share=0.1)
  whole = list(open_dataset(config, 0).eval_batches(4, split='train'))
  data = open_dataset(config, 0)
  split = data._images['train'].split
  file = {
    'no image': b'no image',
    'cut off': split.read(9)[:400],
    'of another size': encode_jpeg(np.full((16, 16, 3), 9, np.uint8), 95, '420'),
    'unreadable': None,
  }[damage]
  damage_image(split, 9, file)
  found = list(data.eval_batches(4, split='train'))
  assert len(found) == len(whole) == 6
  for batch, expected in zip(found, whole, strict=True):
    bad = batch['index'] == 9
    without = {
      'mask': expected['mask'] & ~bad,
      'image': np.where(bad[:, None, None, None], 0, expected['image']),
    }
    chex.assert_trees_all_equal(batch, expected | without)
  ((split_name, name, reason),) = data.skipped
  assert (split_name, name[-3:]) == ('train', '[9]') and reason


def damage_image(split, bad, file):
  """Replaces the bytes of one image of an opened store; None makes it unreadable."""
  fill = split.fill

  def fill_damaged(i, out):
    if i != bad:
      fill(i, out)
    elif file is None:
      raise OSError('it cannot be read')
    else:
      decode_stored(file, out)

  object.__setattr__(split, 'fill', fill_damaged)


def numbered_plan(start, stop, batch_size=20, threads=2, form=''):
  """Returns a plan whose images contain their own index. Multiples of 7 cannot be decoded."""

  def fill(indices, out):
    out[...] = indices[:, None, None, None]
    return indices % 7 != 0

  def indices(step):
    return np.arange(step * batch_size, (step + 1) * batch_size) % 200

  return pipeline.BatchPlan(indices, fill, form, 4, start, stop, threads)


@BOTH
@pytest.mark.parametrize('form', ['', 'raw'])
@pytest.mark.parametrize('batch_size', [1, 16, 17, 40])
def test_batches_are_in_order(loader, form, batch_size):
  load = pipeline.open_loader(loader, 'the test')
  for threads in (1, 3):
    plan = numbered_plan(2, 6, batch_size, threads, form)
    batches = list(load(plan))
    assert len(batches) == 4
    for step, (images, mask, indices) in enumerate(batches, 2):
      chex.assert_trees_all_equal(indices, plan.indices(step))
      chex.assert_trees_all_equal(mask, indices % 7 != 0)
      chex.assert_shape(images, (batch_size, 4, 4, 3))
      assert (images == indices[:, None, None, None]).all()


@BOTH
def test_endless_and_empty_plans(loader):
  load = pipeline.open_loader(loader, 'the test')
  batches = load(numbered_plan(3, None))
  assert [next(batches)[2][0] for _ in range(4)] == [60, 80, 100, 120]
  batches.close()
  assert list(load(numbered_plan(3, 3))) == []


@BOTH
def test_an_error_keeps_its_type(loader):
  def fill(indices, out):
    raise KeyError(int(indices[0]))

  with pytest.raises(KeyError):
    next(pipeline.open_loader(loader, 'the test')(numbered_plan(0, None)._replace(fill=fill)))


@pytest.mark.parametrize(
  ('name', 'installed', 'message'),
  [
    ('auto', True, 'tf.data reads store:photos'),
    ('tf.data', True, 'tf.data reads store:photos'),
    ('threads', True, 'Python threads read store:photos; config.data.loader=threads'),
    ('auto', False, 'Python threads read store:photos; TensorFlow is not installed'),
  ],
)
def test_the_log_names_the_loader(monkeypatch, caplog, name, installed, message):
  if not installed:
    monkeypatch.setitem(sys.modules, 'tensorflow', None)
  with caplog.at_level('INFO', 'absl'):
    pipeline.open_loader(name, 'store:photos')
  assert message in caplog.text


def test_tf_data_without_tensorflow_is_an_error(monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorflow', None)
  with pytest.raises(UserError, match=r'config\.data\.loader=tf\.data needs tensorflow'):
    pipeline.open_loader('tf.data', 'store:photos')


def test_the_graph_has_only_the_decoding_threads_that_the_plan_asks_for():
  tf = pytest.importorskip('tensorflow')
  graph = pipeline.tf_data_graph(tf, numbered_plan(0, 2, threads=3), [])
  assert isinstance(graph, tf.data.Dataset)
  assert graph.options().threading.private_threadpool_size == 3
