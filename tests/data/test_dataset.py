"""Batches: their contents, which depend only on seed and step, and the treatment of bad images."""

import errno
import itertools
import json
import os
import pathlib
import subprocess
import sys
import threading
import zlib

import chex
from data_helpers import make_config, make_store_config, photo, rotated, take
import numpy as np
import pytest
from tiny import free_port

from alexnet_jax.data import batch_indices, decode_canvas, open_dataset
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.decode import Canvas
from alexnet_jax.data.prepare import prepare
from alexnet_jax.errors import RunError, UserError

IN_MEMORY, THREADS, TF_DATA = (
  {'cache_mib': 64},
  {'cache_mib': 0, 'loader': 'threads'},
  {'cache_mib': 0, 'loader': 'tf.data'},
)
CACHED_OR_STREAMED = pytest.mark.parametrize(
  'reading', [IN_MEMORY, THREADS, TF_DATA], ids=['memory', 'threads', 'tf.data']
)
STREAMED = pytest.mark.parametrize('loader', ['threads', 'tf.data'])


def prefetch_threads():
  return [thread for thread in threading.enumerate() if thread.name == 'prefetch']


def start(script, **values):
  """Starts a Python process with one CPU device."""
  code = script.format(path=[p for p in sys.path if p], **values)
  pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
  env = os.environ | {'JAX_NUM_CPU_DEVICES': '1'}
  return subprocess.Popen([sys.executable, '-c', code], env=env, **pipes)


def run(script, **values):
  process = start(script, **values)
  output, errors = process.communicate(timeout=120)
  return process.returncode, output.strip(), errors


@CACHED_OR_STREAMED
def test_training_batches_are_a_function_of_the_step(reading):
  data = open_dataset(make_config(**reading), 5)
  assert data.cached == (reading is IN_MEMORY)
  batches = take(data.train_batches(0, 8), 6)
  for step, batch in enumerate(batches):
    chex.assert_shape(batch['image'], (8, 24, 24, 3))
    types = {key: value.dtype for key, value in batch.items()}
    assert types == {'image': np.uint8, 'label': np.int32, 'mask': bool, 'index': np.int32}
    chex.assert_trees_all_equal(batch['index'], batch_indices(5, step, 8, 21).astype(np.int32))
    chex.assert_trees_all_equal(batch['label'], data.train_labels[batch['index']])
    assert batch['mask'].all()
  for step in range(6):  # a run can resume at any step
    chex.assert_trees_all_equal(take(data.train_batches(step, 8), 6 - step), batches[step:])
  rows = np.array([0, 1, 6, 7])  # the rows of one of several processes
  part = [{key: value[rows] for key, value in batch.items()} for batch in batches[4:]]
  chex.assert_trees_all_equal(take(data.train_batches(4, 8, rows), 2), part)
  data.close()


ONE_OF_TWO_PROCESSES = """
import json, sys, zlib
sys.path[:0] = {path!r}
import jax
jax.distributed.initialize('localhost:{port}', 2, {process}, cluster_detection_method='deactivate')
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.distributed import sharding
from alexnet_jax.data import open_dataset
from data_helpers import make_config
from tiny import tiny_config
rows = sharding.local_rows(mesh_lib.make_mesh(tiny_config(mesh=(2, 1))), 8)
data = open_dataset(make_config({source!r}, cache_mib=0, loader={loader!r}), 3)
batches = data.train_batches(0, 8, rows)
for _ in range(21):
  batch = next(batches)
  seen = [zlib.crc32(image) for image in batch['image']]
  print(json.dumps([*map(list, zip(rows.tolist(), batch['index'].tolist(), seen))]))
"""


@pytest.mark.long
@STREAMED
def test_processes_together_see_every_image_once_per_epoch(tmp_path, loader):
  """The test runs two processes with one device each for eight epochs of 21 images."""
  prepare(make_store_config(), str(tmp_path / 'store'))
  source = f'store:{tmp_path / "store"}'
  values = {'port': free_port(), 'source': source, 'loader': loader}
  processes = [start(ONE_OF_TWO_PROCESSES, process=i, **values) for i in range(2)]
  shares = []
  for process in processes:
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    shares.append([json.loads(line) for line in output.splitlines()])
  index = []
  alone = open_dataset(make_config(source), 3).train_batches(0, 8)
  for batch, *parts in zip(take(alone, 21), *shares, strict=True):
    rows, index_of, seen = zip(*sorted(itertools.chain(*parts)), strict=True)
    assert rows == tuple(range(8)) and all(len(part) == 4 for part in parts)
    assert index_of == tuple(batch['index'])
    assert seen == tuple(map(zlib.crc32, batch['image']))
    index += index_of
  for epoch in np.reshape(index, (8, 21)):
    chex.assert_trees_all_equal(np.sort(epoch), np.arange(21))


@STREAMED
def test_streamed_batches_equal_cached_ones(make_folder, loader):
  root = make_folder({'train/a': 9, 'train/b': 7, 'val/a': 3, 'val/b': 2})
  (root / 'train/a/003.jpg').write_bytes(b'no image')
  config = make_config(f'folder:{root}')
  cached = open_dataset(config, 1)
  config.cache_mib, config.threads, config.loader = 0, 0, loader
  streamed = open_dataset(config, 1)
  for batch_size in (7, 32, 40):  # tf.data reads chunks of 7, 32 and 20
    expected = take(cached.train_batches(2, batch_size), 3)
    chex.assert_trees_all_equal(take(streamed.train_batches(2, batch_size), 3), expected)
  for split in ('train', 'validation'):
    expected = list(cached.eval_batches(6, split=split))
    chex.assert_trees_all_equal(list(streamed.eval_batches(6, split=split)), expected)
  assert cached.skipped == streamed.skipped
  path = root / 'train/b/002.jpg'
  first = next(cached.eval_batches(16, split='train'))
  chex.assert_trees_all_equal(first['image'][11], decode_canvas(path.read_bytes(), cached._canvas))


@CACHED_OR_STREAMED
@pytest.mark.parametrize('batch_size', [2, 4, 14])
def test_evaluation_uses_every_image_once(reading, batch_size):
  data = open_dataset(make_config(**reading), 0)
  shares = np.split(np.random.default_rng(0).permutation(batch_size), 2)
  shards = [list(data.eval_batches(batch_size, rows)) for rows in shares]
  assert len(shards[0]) == len(shards[1]) == -(-7 // batch_size)
  seen = []
  for batch in itertools.chain(*shards):
    chex.assert_shape(batch['image'], (batch_size // 2, 24, 24, 3))
    pad = ~batch['mask']
    assert (batch['index'][pad] == -1).all() and (batch['label'][pad] == 0).all()
    assert not batch['image'][pad].any()
    seen += batch['index'][batch['mask']].tolist()
    real = batch['index'][batch['mask']]
    chex.assert_trees_all_equal(batch['label'][batch['mask']], data.validation_labels[real])
  assert sorted(seen) == list(range(7))


def test_a_dataset_knows_its_numbers_of_images(make_folder):
  data = open_dataset(make_config(f'folder:{make_folder({"a": 1, "b": 1})}'), 0)
  assert (data.num_train, data.num_validation, data.validation_labels) == (2, 0, None)
  chex.assert_trees_all_equal(data.train_counts, np.array([1, 1]))
  with pytest.raises(UserError, match='no validation images'):
    data.eval_batches(4)


@CACHED_OR_STREAMED
def test_a_bad_training_image_is_skipped_and_named(make_folder, reading):
  root = make_folder({'train/a': 3, 'train/b': 3, 'val/a': 2})
  (root / 'train/a/001.jpg').write_bytes(b'no image')
  data = open_dataset(make_config(f'folder:{root}', **reading), 0)
  for batch in take(data.train_batches(0, 6), 3):
    bad = batch['index'] == 1
    chex.assert_trees_all_equal(batch['mask'], ~bad)
    assert not batch['image'][bad].any()
  (batch,) = data.eval_batches(2)
  assert batch['mask'].all()
  (skipped,) = data.skipped
  assert skipped[:2] == ('train', str(root / 'train/a/001.jpg')) and skipped[2]


@CACHED_OR_STREAMED
def test_a_bad_validation_image_is_an_error(make_folder, reading):
  """Error rates over different sets of images could not be compared."""
  root = make_folder({'train/a': 3, 'train/b': 3, 'val/a': 2})
  (root / 'val/a/000.jpg').unlink()
  (root / 'val/a/000.jpg').symlink_to(root / 'gone')  # an unreadable file counts as undecodable
  data = open_dataset(make_config(f'folder:{root}', **reading), 0)
  with pytest.raises(
    UserError, match=r'1 of 2 validation images .*: .*val/a/000\.jpg \(.*\): repair'
  ):
    list(data.eval_batches(2))


@CACHED_OR_STREAMED
def test_all_bad_validation_images_are_listed_or_left_out(make_folder, reading, caplog):
  root = make_folder({'train/a': 3, 'train/b': 3, 'val/a': 8, 'val/b': 8})
  bad = [f'val/{name}/{i:03}.jpg' for name in 'ab' for i in range(6)]
  for name in bad:
    (root / name).write_bytes(b'no image')
  config = make_config(f'folder:{root}', **reading)
  with pytest.raises(UserError, match='12 of 16 validation images cannot be decoded') as error:
    open_dataset(config, 0).preload(is_new=True)
  assert all(name in str(error.value) for name in bad[:10]) and bad[10] not in str(error.value)
  assert ' and 2 more: repair them' in str(error.value)
  config.drop_bad_validation = True
  data = open_dataset(config, 0)
  data.preload(is_new=True)
  assert data.num_validation == 4 and list(data.validation_labels) == [0, 0, 1, 1]
  assert data.dropped == tuple(str(root / name) for name in bad)
  (batch,) = data.eval_batches(4)
  assert batch['mask'].all() and f'leaves out 12 of 16 validation images: {root}' in caplog.text


def test_the_log_says_that_images_are_kept_in_memory(make_folder, caplog):
  config = make_config(f'folder:{make_folder({"train/a": 3, "train/b": 3, "val/a": 1})}')
  with caplog.at_level('INFO', 'absl'):
    open_dataset(config, 0).preload()
    assert f'{config.source} is kept in memory: ' in caplog.text
    caplog.clear()
    config.cache_mib = 0
    open_dataset(config, 0).preload()
  assert 'in memory' not in caplog.text


def test_a_validation_split_of_bad_images_alone_is_left_out(make_folder):
  root = make_folder({'train/a': 3, 'train/b': 3, 'val/a': 1})
  (root / 'val/a/000.jpg').write_bytes(b'no image')
  data = open_dataset(make_config(f'folder:{root}', drop_bad_validation=True), 0)
  assert (data.num_validation, data.validation_labels) == (0, None)


@CACHED_OR_STREAMED
def test_too_many_bad_images_stop_the_run(make_folder, reading):
  root = make_folder({'train/a': 10, 'train/b': 10, 'val/a': 1})
  for i in range(4):
    (root / f'train/b/00{i}.jpg').write_bytes(b'no image')
  config = make_config(f'folder:{root}', **reading, max_bad_share=0.1)
  for _ in range(2):  # a second attempt fails too
    data = open_dataset(config, 0)
    with pytest.raises(RunError, match=r'[34] of 20 .*/train/b/00\d\.jpg.*max_bad_share=0\.1'):
      take(data.train_batches(0, 20), 2)
  config.max_bad_share = 0.2
  assert take(open_dataset(config, 0).train_batches(0, 20), 1)[0]['mask'].sum() == 16


@CACHED_OR_STREAMED
def test_a_disk_that_fails_stops_the_run(make_folder, reading, monkeypatch):
  """Skipping an image would change what the network learns, although the image is sound."""
  root = make_folder({'train/a': 3, 'train/b': 3, 'val/a': 2})
  config, read = make_config(f'folder:{root}', **reading), pathlib.Path.read_bytes

  def fail(path):
    if path.name == '001.jpg':
      raise OSError(errno.EIO, os.strerror(errno.EIO))
    return read(path)

  with monkeypatch.context() as patch:
    patch.setattr(pathlib.Path, 'read_bytes', fail)
    data = open_dataset(config, 0)
    with pytest.raises(RunError, match=r'train/./001\.jpg cannot be read .*: bring its disk'):
      next(data.train_batches(0, 6))
    with pytest.raises(RunError, match=r'001\.jpg cannot be read'):
      data.preload(is_new=True)
    assert not data.skipped
    config.drop_bad_validation = True
    with pytest.raises(RunError, match=r'val/a/001\.jpg cannot be read'):
      open_dataset(config, 0)
  assert next(data.train_batches(0, 6))['mask'].all()


def test_a_data_set_of_bad_images_is_an_error(make_folder):
  root = make_folder({'a': 1})
  (root / 'a/000.jpg').write_bytes(b'')
  with pytest.raises(RunError, match='1 of 1'):
    next(open_dataset(make_config(f'folder:{root}'), 0).train_batches(0, 1))


@CACHED_OR_STREAMED
def test_an_unexpected_error_while_reading_is_raised(reading, capfd):
  data = open_dataset(make_config(**reading), 0)

  def fail(_):
    raise KeyError('a bug')

  object.__setattr__(data._images['train'].split, 'read', fail)
  with pytest.raises(KeyError, match='a bug'):
    next(data.train_batches(0, 4))
  assert 'Traceback' not in capfd.readouterr().err


@pytest.mark.parametrize(
  'change',
  [
    {'threads': -1},
    {'cache_mib': -1},
    {'max_bad_share': 2.0},
    {'shuffle': 'much'},
    {'loader': 'magic'},
    {'buffer': 0},
  ],
)
def test_invalid_settings_are_refused(change):
  with pytest.raises(UserError, match=f'config.data.{next(iter(change))}'):
    open_dataset(make_config(**change), 0)


def test_close_stops_unfinished_iterators():
  data = open_dataset(make_config(), 0)
  iterator = data.train_batches(0, 4)
  next(iterator)
  assert len(prefetch_threads()) == 1
  data.close()
  assert not prefetch_threads()
  assert isinstance(data, Dataset) and next(iterator, None) is None


WITHOUT_OTHER_PACKAGES = """
import importlib.util, sys, types
sys.path[:0] = {path!r}
for name in ('tensorflow', 'tensorflow_datasets', 'array_record', 'jax'):
  sys.modules[name] = None  # makes the import an error
package = types.ModuleType('alexnet_jax')  # without its __init__, which imports the models
package.__path__ = importlib.util.find_spec('alexnet_jax').submodule_search_locations
sys.modules['alexnet_jax'] = package
from alexnet_jax.data import open_dataset
from data_helpers import make_config
for source in {sources!r}:
  for cache_mib, loader in ((64, 'tf.data'), (0, 'auto'), (0, 'threads')):
    data = open_dataset(make_config(source, loader=loader, cache_mib=cache_mib), 0)
    next(data.train_batches(0, 4))
    next(data.eval_batches(4))
    data.statistics()
"""

EXIT_DURING_STREAM = """
import sys
sys.path[:0] = {path!r}
from data_helpers import make_config
from alexnet_jax.data import open_dataset
batches = open_dataset(make_config(cache_mib=0, loader={loader!r}), 0).train_batches(0, 4)
next(batches)
print('end')
"""


def test_reading_needs_neither_tensorflow_nor_jax(make_folder, tmp_path):
  folder = f'folder:{make_folder({"a": 4, "b": 4})}'
  stores = [f'store:{tmp_path / form}' for form in ('jpeg', 'raw')]
  for store in stores:
    form = store.rpartition('/')[2]
    prepare(make_store_config(folder, format=form), store.partition(':')[2])
  code, _, errors = run(WITHOUT_OTHER_PACKAGES, sources=['synthetic', folder, *stores])
  assert code == 0, errors


@pytest.mark.long
@STREAMED
def test_a_program_can_exit_with_an_unfinished_stream(loader):
  code, output, errors = run(EXIT_DURING_STREAM, loader=loader)
  assert (code, output) == (0, 'end'), errors


@CACHED_OR_STREAMED
def test_photographs_in_a_folder_are_turned_upright(make_folder, reading):
  root = make_folder({'train/a': 1, 'train/b': 1, 'val/a': 1})
  (root / 'train/a/000.jpg').write_bytes(rotated(photo(5), quality=95))
  config = make_config(f'folder:{root}', **reading)
  upright = decode_canvas(photo(5), Canvas.from_config(config.canvas)).astype(int)
  for turn in (True, False):
    config.canvas.exif_orientation = turn
    batch = next(open_dataset(config, 0).eval_batches(2, split='train'))
    assert (np.abs(batch['image'][0] - upright).mean() < 10) == turn
