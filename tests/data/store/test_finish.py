"""The metadata of a finished store."""

import json
import tracemalloc

import chex
from data_helpers import make_config, make_store_config
import numpy as np
import pytest

from alexnet_jax.data import open_dataset
from alexnet_jax.data.prepare import prepare
from alexnet_jax.data.store import finish
from alexnet_jax.errors import RunError, UserError

FORMATS = pytest.mark.parametrize('form', ['jpeg', 'raw'])


@FORMATS
def test_a_store_contains_its_metadata(make_folder, tmp_path, form):
  root = make_folder({'train/a': 9, 'train/b': 8, 'val/b': 3})
  output = tmp_path / 'store'
  result = prepare(make_store_config(f'folder:{root}', format=form, quality=80), str(output))
  meta = json.loads((output / 'store.json').read_text())
  assert meta['class_names'] == ['a', 'b'] and meta['format'] == form
  assert meta['splits']['train']['class_counts'] == [9, 8]
  assert [shard['images'] for shard in meta['splits']['train']['shards']] == [5, 4, 4, 4]
  assert meta['plan']['source'] == f'folder:{root}' and meta['plan']['quality'] == 80
  assert result['bytes'] == sum(path.stat().st_size for path in output.glob('images-*'))
  data = open_dataset(make_config(f'store:{output}'), 0)
  found = data.statistics()
  assert not data._iterators  # no image was read
  batch = next(data.eval_batches(17, split='train'))
  pixels = batch['image'].reshape(-1, 3).astype(float)
  chex.assert_trees_all_close(
    found.mean_image, batch['image'].mean(0).astype(np.float32), rtol=1e-6
  )
  covariance = np.cov(pixels.T, bias=True)
  chex.assert_trees_all_close(np.array(meta['rgb_covariance']), covariance, rtol=1e-6)
  chex.assert_trees_all_close(np.array(meta['rgb_mean']), pixels.mean(0), rtol=1e-6)
  again = prepare(make_store_config(f'folder:{root}', format=form, quality=80), str(output))
  assert again == result


def test_finishing_holds_the_sums_of_one_shard_at_a_time(tmp_path, monkeypatch):
  """The sums of all shards of a large store would need gigabytes."""
  peaks, read_indices = [], finish._read_indices

  def measure(job):
    tracemalloc.start()
    try:
      return read_indices(job)
    finally:
      peaks.append(tracemalloc.get_traced_memory()[1])
      tracemalloc.stop()

  monkeypatch.setattr(finish, '_read_indices', measure)
  config = make_store_config(shard_images=1)
  config.data.canvas.size = 128
  prepare(config, str(tmp_path))  # 28 shards
  assert 0 < peaks[0] < 14 * 128 * 128 * 3 * np.uint32().nbytes


def test_a_store_without_readable_images_is_an_error(make_folder, tmp_path):
  root = make_folder({'train/a': 1, 'train/b': 1})
  for path in root.glob('train/*/*'):
    path.write_bytes(b'')
  with pytest.raises(RunError, match='no training image'):
    prepare(make_store_config(f'folder:{root}'), str(tmp_path / 'store'))


def test_too_many_skipped_images_are_an_error(make_folder, tmp_path):
  root, output = make_folder({'train/a': 5, 'train/b': 5, 'val/a': 3}), str(tmp_path / 'store')
  bad = [root / name for name in ('train/a/000.jpg', 'train/b/000.jpg', 'val/a/000.jpg')]
  for path in bad:
    path.write_bytes(b'')
  config = make_store_config(f'folder:{root}')
  with pytest.raises(RunError, match=rf'2 of 10 training .* {bad[0]}, {bad[1]} \(.*max_bad_share'):
    prepare(config, output)
  files = {path: path.stat().st_mtime_ns for path in (tmp_path / 'store').glob('images-*')}
  config.data.max_bad_share = 0.2
  with pytest.raises(
    RunError, match=rf'1 of 3 validation .* {bad[2]} \(.*drop_bad_validation=True'
  ):
    prepare(config, output)
  config.data.drop_bad_validation = True
  result = prepare(config, output)
  assert result['images'] == {'train': 8, 'validation': 2} and result['skipped'] == 3
  assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / 'store').glob('images-*')}


def test_a_wrong_devkit_is_an_error_before_images_are_written(make_folder, tmp_path):
  root = make_folder({'n01440764': 2, 'n01443537': 2})
  config = make_store_config(f'folder:{root}', devkit=str(tmp_path / 'nowhere'))
  with pytest.raises(
    UserError, match=r'config\.data\.devkit=.*nowhere: there is no data/meta\.mat'
  ):
    prepare(config, str(tmp_path / 'store'))
  assert not (tmp_path / 'store').exists()
