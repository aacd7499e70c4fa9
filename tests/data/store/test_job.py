"""The plan of a store: its shards, its order of images, and its folder."""

import chex
from data_helpers import make_store_config
import numpy as np
import pytest

from alexnet_jax.data.prepare import prepare
from alexnet_jax.data.splits import generator
from alexnet_jax.data.store import job as job_lib
from alexnet_jax.errors import UserError


def test_training_images_are_shuffled_once_or_not_at_all(tmp_path):
  kept, shuffled = str(tmp_path / 'kept'), str(tmp_path / 'shuffled')
  prepare(make_store_config(shuffle=False), kept)
  prepare(make_store_config(), shuffled)
  rows = {path: np.load(f'{path}/store.npz')['train/row'] for path in (kept, shuffled)}
  chex.assert_trees_all_equal(rows[kept], np.arange(21, dtype=np.int32))
  assert (rows[shuffled] != rows[kept]).any()
  chex.assert_trees_all_equal(np.sort(rows[shuffled]), rows[kept])
  chex.assert_trees_all_equal(
    np.load(f'{shuffled}/store.npz')['validation/row'], np.arange(7, dtype=np.int32)
  )


def test_the_training_order_is_drawn_once(tmp_path, monkeypatch):
  drawn = []

  def draw(seed, index, purpose):
    drawn.append((seed, index, purpose))
    return generator(seed, index, purpose)

  monkeypatch.setattr(job_lib, 'generator', draw)
  prepare(make_store_config(split_seed=4), str(tmp_path))
  assert drawn == [(4, 0, 3)]
  expected = generator(4, 0, 3).permutation(21).astype(np.int32)
  chex.assert_trees_all_equal(np.load(tmp_path / 'store.npz')['train/row'], expected)


def test_a_folder_belongs_to_one_plan(make_folder, tmp_path):
  output = str(tmp_path / 'store')
  prepare(make_store_config(), output)
  for change in ({'format': 'raw'}, {'quality': 90}, {'split_seed': 1}):
    with pytest.raises(UserError, match=f'with a different {next(iter(change))}'):
      prepare(make_store_config(**change), output)
  with pytest.raises(UserError, match='holds other files'):
    prepare(make_store_config(), str(make_folder({'a': 1})))


def test_the_folder_is_checked_before_the_source_is_opened(make_folder, tmp_path):
  config = make_store_config('folder:no_such_folder')
  (tmp_path / 'file').write_bytes(b'')
  for name in ('file', 'file/store'):
    with pytest.raises(UserError, match=f'--output={tmp_path}/{name}: .* cannot be written'):
      prepare(config, str(tmp_path / name))
  with pytest.raises(UserError, match='holds other files'):
    prepare(config, str(make_folder({'a': 1})))
  with pytest.raises(UserError, match='no_such_folder'):
    prepare(config, str(tmp_path / 'new' / 'store'))
  assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize(
  ('key', 'value'), [('format', 'png'), ('quality', 0), ('shard_images', 0), ('subsampling', '9')]
)
def test_invalid_settings_are_refused(tmp_path, key, value):
  with pytest.raises(UserError, match=rf'config\.prepare\.{key}=({value}|{value!r}): '):
    prepare(make_store_config(**{key: value}), str(tmp_path / 'new'))
