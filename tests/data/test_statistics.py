"""Statistics of the training images agree with NumPy in float64, and are cached in a file."""

import hashlib

import chex
from data_helpers import encode, make_config, photo
import numpy as np
import pytest

from alexnet_jax.data import Statistics, open_dataset
from alexnet_jax.data import statistics as stats
from alexnet_jax.data.decode import Canvas
from alexnet_jax.data.sources import open_source
from alexnet_jax.errors import RunError


def statistics_by_definition(images: np.ndarray) -> Statistics:
  """Computes the statistics by their definition from images uint8 [N, S, S, 3]."""
  pixels = images.reshape(-1, 3).astype(np.float64)
  variances, vectors = np.linalg.eigh(np.cov(pixels.T, bias=True))
  vectors *= [np.sign(v[np.argmax(np.abs(v))]) for v in vectors.T]
  return Statistics(images.mean(0), vectors, np.sqrt(variances))


def test_statistics_agree_with_their_definition():
  images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), np.uint8)
  images[..., 1] = images[..., 0] // 2 + images[..., 1] // 3
  images[..., 2] //= 4
  found = stats.from_sums(stats.add(iter(images), 8))
  chex.assert_trees_all_close(found, statistics_by_definition(images), rtol=1e-5, atol=1e-4)
  chex.assert_trees_all_equal_shapes(found, statistics_by_definition(images))
  assert all(x.dtype == np.float32 for x in found)
  assert (np.diff(found.deviations) > 0).all()


def test_gray_and_constant_images():
  gray = np.repeat(np.random.default_rng(1).integers(0, 256, (5, 8, 8, 1), np.uint8), 3, 3)
  found = stats.from_sums(stats.add(gray, 8))
  chex.assert_trees_all_close(found.deviations[:2], np.zeros(2, np.float32), atol=1e-4)
  chex.assert_trees_all_close(found.eigenvectors[:, 2], np.full(3, 3**-0.5, np.float32), atol=1e-6)
  white = np.full((2, 4, 4, 3), 255, np.uint8)
  chex.assert_tree_all_finite(stats.from_sums(stats.add(white, 4)))


def test_statistics_need_an_image():
  with pytest.raises(RunError, match='no training image'):
    stats.from_sums(stats.add([], 8))


@pytest.mark.parametrize('cache_mib', [64, 0])
def test_bad_files_are_left_out(make_folder, tmp_path, cache_mib):
  root = make_folder({'train/a': 4, 'train/b': 3, 'val/a': 1})
  bad = root / 'train/a/001.jpg'
  bad.write_bytes(encode(np.zeros((9, 9), np.uint8))[:50])
  data = open_dataset(make_config(f'folder:{root}', cache_mib=cache_mib), 0)
  batch = next(data.eval_batches(8, split='train'))
  found = data.statistics(tmp_path / 'cache')
  chex.assert_trees_all_close(
    found, statistics_by_definition(batch['image'][batch['mask']]), rtol=1e-5, atol=1e-4
  )
  assert batch['mask'].sum() == 6


@pytest.mark.parametrize('processes', [2, 3])
def test_the_number_of_processes_has_no_effect(make_folder, processes):
  """Each process reads its share of the images, and the sums are exact."""
  data = open_dataset(make_config(f'folder:{make_folder({"a": 9, "b": 5})}'), 0)
  parts = []

  def add_up(sums):
    parts.append(sums)
    return stats.Sums(*(sum(part) for part in zip(*parts, strict=True)))

  for i in range(processes):
    found = data.statistics(share=(i, processes), add_up=add_up)
  assert sum(int(part.count) for part in parts) == data.num_train
  assert max(part.count for part in parts) - min(part.count for part in parts) <= 1
  chex.assert_trees_all_equal(found, data.statistics())


def test_statistics_are_read_from_their_cache_file(make_folder, tmp_path, monkeypatch):
  root, cache = make_folder({'a': 4, 'b': 4}), tmp_path / 'cache'
  config = make_config(f'folder:{root}')
  first = open_dataset(config, 0).statistics(cache)
  (path,) = cache.iterdir()
  with monkeypatch.context() as patch:
    patch.setattr(stats, 'add', None)  # statistics must not be computed again
    chex.assert_trees_all_equal(open_dataset(config, 0).statistics(cache), first)
  path.write_bytes(path.read_bytes()[:300])
  chex.assert_trees_all_equal(open_dataset(config, 0).statistics(cache), first)
  assert list(cache.iterdir()) == [path]
  config.canvas.fit = 'warp'
  open_dataset(config, 0).statistics(cache)
  assert len(list(cache.iterdir())) == 2


def test_statistics_are_computed_again_if_images_were_replaced(make_folder, tmp_path):
  root, cache = make_folder({'a': 4, 'b': 4}), tmp_path / 'cache'
  config = make_config(f'folder:{root}', holdout=0.0)
  open_dataset(config, 0).statistics(cache)
  (root / 'a/000.jpg').write_bytes(encode(photo(9)))
  found = open_dataset(config, 0).statistics(cache)
  chex.assert_trees_all_equal(found, open_dataset(config, 0).statistics())


def test_the_fingerprint_of_earlier_versions_remains_valid(make_folder):
  """A cache from before `exif_orientation` existed is still used if this key is False."""
  train = open_source(make_config(f'folder:{make_folder({"a": 2, "b": 1})}', holdout=0.0)).train
  digest = hashlib.sha256(repr(('name', (24, 'crop', 'bicubic', 10**6), 3)).encode())
  digest.update(np.int32([0, 0, 1]).tobytes())
  for i in range(3):
    digest.update(train.name(i).encode() + b'\0')
  canvas = Canvas(24, max_pixels=10**6, exif_orientation=False)
  assert stats.fingerprint('name', canvas, train) == digest.hexdigest()[:32]
  upright = canvas._replace(exif_orientation=True)
  assert stats.fingerprint('name', upright, train) != digest.hexdigest()[:32]


def test_directions_without_variance_have_a_fixed_form():
  """Gray images vary along one direction of colour. The other two are the same on every machine."""
  rng = np.random.default_rng(0)
  gray = np.repeat(rng.integers(0, 256, (4, 8, 8, 1), np.uint8), 3, axis=-1)
  found = stats.from_sums(stats.add(gray, 8))
  np.testing.assert_array_equal(found.deviations[:2], 0)
  expected = np.array([[2, 0, 1], [-1, 1, 1], [-1, -1, 1]]) / np.sqrt([6, 2, 3])
  np.testing.assert_allclose(found.eigenvectors, expected, atol=1e-6)
  flat = stats.from_sums(stats.add(np.full((2, 8, 8, 3), 7, np.uint8), 8))
  np.testing.assert_array_equal(flat.eigenvectors, np.eye(3))
  np.testing.assert_array_equal(flat.deviations, 0)


def test_two_directions_with_variance_are_kept():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (4, 8, 8, 3), np.uint8)
  images[..., 2] = 9
  found = stats.from_sums(stats.add(images, 8))
  assert found.deviations[0] == 0 and found.deviations[1] > 10
  np.testing.assert_allclose(np.abs(found.eigenvectors[:, 0]), [0, 0, 1], atol=1e-6)
  np.testing.assert_allclose(found.eigenvectors.T @ found.eigenvectors, np.eye(3), atol=1e-6)
