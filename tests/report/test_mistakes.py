"""Confused pairs of classes, losses and confidence agree with values computed by hand."""

import numpy as np

from alexnet_jax.report import mistakes


def test_confused_pairs():
  labels = np.array([0, 0, 0, 1, 1, 2])
  predicted = np.array([1, 1, 0, 0, 1, 1])
  pairs = mistakes.confused_pairs(predicted, labels, ('a', 'b', 'c'), 2)
  assert pairs[0] == {'label': 'a', 'predicted': 'b', 'count': 2, 'of': 3}
  assert len(pairs) == 2 and pairs[1]['count'] == 1
  assert mistakes.confused_pairs(np.arange(3), np.arange(3), ('a', 'b', 'c'), 2) == []
  np.testing.assert_allclose(mistakes.losses(np.float32([0.1, 0.8])), -np.log([0.1, 0.8]), 1e-6)


def test_confidence():
  """Images are grouped by the probability of the predicted class; a bound belongs to the group above it."""
  largest, right = np.array([0.6, 0.65, 0.9, 1.0]), np.array([True, False, True, True])
  rows = mistakes.confidence(largest, right)
  assert [(row['low'], row['high'], row['images']) for row in rows] == [
    (50, 75, 2), (90, 99, 1), (99, 100, 1),
  ]  # fmt: skip
  assert [row['right'] for row in rows] == [50, 100, 100]
  assert rows[0]['probability'] == 62.5
