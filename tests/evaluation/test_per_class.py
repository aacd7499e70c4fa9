"""The figures of each class agree with those computed by hand."""

import numpy as np
import pytest

from alexnet_jax.evaluation import per_class

NAMES = ('a', 'b', 'c', 'd')


def test_the_confusion_matrix_counts_the_rows_of_the_mask():
  probabilities = np.float32([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.5, 0.5, 0], [0, 0, 1]])
  labels, mask = np.int32([0, 0, 1, 1]), np.array([True, True, True, False])
  found = per_class.confusion(probabilities, labels, mask)
  np.testing.assert_array_equal(found, [[1, 1, 0], [1, 0, 0], [0, 0, 0]])


def test_accuracy_precision_and_f1():
  """Class c has images and is never predicted; class d has no images."""
  matrix = np.array([[3, 1, 0, 0], [1, 4, 0, 1], [2, 0, 0, 0], [0, 0, 0, 0]])
  found = per_class.describe(matrix, NAMES, ['A', 'B', 'C', 'D'])
  a, b, c, d = found['classes']
  assert a == {
    'name': 'a', 'label': 'A', 'images': 4, 'accuracy': 75.0, 'precision': 50.0, 'f1': 60.0,
  }  # fmt: skip
  assert b['accuracy'] == pytest.approx(200 / 3) and b['precision'] == 80.0
  assert c['accuracy'] == 0.0 and c['precision'] is None and c['f1'] == 0.0
  assert d['accuracy'] is None and d['precision'] == 0.0 and d['images'] == 0
  assert found['macro_f1'] == pytest.approx((60 + b['f1'] + 0) / 3)
  assert found['confusion'] == matrix.tolist()
