"""Confused pairs of classes and losses agree with values computed by hand."""

import numpy as np

from alexnet_jax.report import mistakes


def test_confused_pairs():
  labels = np.array([0, 0, 0, 1, 1, 2])
  predicted = np.array([1, 1, 0, 0, 1, 1])
  probabilities = np.full((6, 3), 0.1)
  probabilities[np.arange(6), predicted] = 0.8
  pairs = mistakes.confused_pairs(probabilities, labels, ('a', 'b', 'c'), 2)
  assert pairs[0] == {'label': 'a', 'predicted': 'b', 'count': 2, 'of': 3}
  assert len(pairs) == 2 and pairs[1]['count'] == 1
  assert mistakes.confused_pairs(np.eye(3), np.arange(3), ('a', 'b', 'c'), 2) == []
  np.testing.assert_allclose(mistakes.losses(probabilities, labels)[:3], -np.log([0.1, 0.1, 0.8]))
