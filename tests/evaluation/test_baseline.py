"""The baselines are the most frequent class and ridge regression."""

import contextlib

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
  blocks = min(16, size)
  assert features.shape == (8, blocks * blocks * 3) and labels.shape == (8,)


def test_ridge_regression_equals_its_closed_form():
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(30, 8)), rng.normal(size=(30, 3))
  (weights,) = baseline._fit(x, y, np.array([0.1]))
  penalty = 0.1 * np.trace(x.T @ x) / 8
  np.testing.assert_allclose(weights, np.linalg.solve(x.T @ x + penalty * np.eye(8), x.T @ y))


def test_unknown_training_images_have_no_most_frequent_class():
  assert baseline.majority_error([0, 0, 0], np.array([1, 1, 0])) is None
