"""The baselines are the most frequent class and ridge regression."""

import contextlib
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from tiny import tiny_config

from alexnet_jax.data import open_dataset
from alexnet_jax.evaluation import baseline


@pytest.mark.long
def test_errors_of_ridge_regression_and_of_the_most_frequent_class():
  config = tiny_config(data__synthetic__train=80)
  with contextlib.closing(open_dataset(config.data, 0)) as dataset:
    error = baseline.ridge_error(dataset, 64)
  assert 0 <= error < 60  # guessing has 75 %, and coarse colours contain some information
  labels = np.array([1, 1, 0, 2])
  assert baseline.majority_error([3, 9, 1], labels) == 50


@pytest.mark.parametrize('size', [8, 64])
def test_features_are_block_means(size):
  """Below 16 pixels, every pixel is a block."""
  config = tiny_config(data__synthetic__train=8)
  with contextlib.closing(open_dataset(config.data, 0)) as dataset:
    features, labels = baseline._pixel_means(dataset, 'train', size)
    (batch,) = dataset.eval_batches(8, split='train')
  np.testing.assert_array_equal(labels, batch['label'])
  assert features.dtype == np.float32
  blocks, margin = min(16, size), (batch['image'].shape[1] - size) // 2
  pixels = batch['image'][:, margin : margin + size, margin : margin + size]
  parts = pixels.reshape(8, blocks, size // blocks, blocks, size // blocks, 3)
  np.testing.assert_allclose(features, parts.mean((2, 4)).reshape(8, -1), rtol=1e-6)


def test_ridge_regression_equals_its_closed_form():
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(30, 8)), rng.normal(size=(30, 3))
  (weights,) = baseline._fit(x.T @ x, x.T @ y, np.array([0.1]))
  penalty = 0.1 * np.trace(x.T @ x) / 8
  np.testing.assert_allclose(weights, np.linalg.solve(x.T @ x + penalty * np.eye(8), x.T @ y))


def _random_dataset(images: int, classes: int) -> SimpleNamespace:
  """Returns noisy images of 8x8 pixels, each fifth of which cannot be decoded."""
  rng = np.random.default_rng(0)
  labels = rng.integers(0, classes, 2 * images)
  centres = rng.uniform(110, 140, (classes, 8, 8, 3))
  noise = rng.normal(0, 60, (2 * images, 8, 8, 3))
  pixels = np.clip(centres[labels] + noise, 0, 255).astype(np.uint8)

  def eval_batches(size, split):
    first = images * (split == 'validation')
    for start in range(first, first + images, size):
      rows = np.arange(start, min(start + size, first + images))
      yield {'image': pixels[rows], 'label': labels[rows], 'mask': rows % 5 > 0}

  return SimpleNamespace(
    class_names=range(classes), num_train=images, num_validation=images, eval_batches=eval_batches
  )


def test_the_ridge_error_equals_that_of_dense_targets():
  """The plain computation has all one-hot targets, and each fold, in memory."""
  dataset = _random_dataset(500, 20)
  x, labels = baseline._pixel_means(dataset, 'train', 8)
  test, test_labels = baseline._pixel_means(dataset, 'validation', 8)
  assert len(x) == 400
  x, test = (rows.astype(float) for rows in (x, test))
  centre, spread = x.mean(0), x.std(0)
  x, test, targets = (x - centre) / spread, (test - centre) / spread, np.eye(20)[labels]

  def error(rows, penalty, others, other_labels):
    matrix = x[rows].T @ x[rows]
    matrix += penalty * np.trace(matrix) / len(matrix) * np.eye(len(matrix))
    centred = targets[rows] - targets.mean(0)
    scores = others @ np.linalg.solve(matrix, x[rows].T @ centred) + targets.mean(0)
    return (scores.argmax(1) != other_labels).mean()

  folds = np.random.default_rng(0).permutation(400) % 5
  penalties = 10.0 ** np.arange(-4, 5)
  errors = [
    sum(error(folds != k, p, x[folds == k], labels[folds == k]) for k in range(5))
    for p in penalties
  ]
  expected = error(folds >= 0, penalties[np.argmin(errors)], test, test_labels)
  assert 0.1 < expected < 0.8
  assert baseline.ridge_error(dataset, 8) == pytest.approx(100 * expected)


def test_the_baseline_needs_little_memory_for_each_image():
  """It holds neither the one-hot targets nor the features in float64."""

  def peak(images: int) -> int:
    dataset = _random_dataset(images, 300)
    tracemalloc.start()
    baseline.ridge_error(dataset, 8)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most

  # The 192 features of a training and a validation image take 1,536 bytes; 300 targets would take 2,400.
  assert peak(5000) - peak(2500) < 2500 * 2200


def test_unknown_training_images_have_no_most_frequent_class():
  assert baseline.majority_error([0, 0, 0], np.array([1, 1, 0])) is None
