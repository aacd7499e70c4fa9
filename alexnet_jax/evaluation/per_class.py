"""Accuracy, precision and F1 of each class, and the confusion matrix."""

from collections.abc import Sequence
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.utils import atomic_io

FILE = 'evaluation.json'
_TABLES = ('classes', 'confusion')
MAX_CLASSES = 1000  # with more, the matrix would be too large


@jax.jit
def confusion(probabilities: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
  """Counts the images of each label that are predicted as each class.

  Args:
    probabilities: float32 `[B, classes]`. Of several largest ones, the first counts.
    labels: int32 `[B]`.
    mask: bool `[B]`; other rows are not counted.

  Returns:
    int32 `[classes, classes]`, by label and by prediction.
  """
  classes = probabilities.shape[-1]
  # A product of one-hot rows, which sums over the devices that hold parts of the batch.
  true = jax.nn.one_hot(labels, classes) * mask[:, None].astype(jnp.float32)
  predicted = jax.nn.one_hot(probabilities.argmax(-1), classes)
  return (true.T @ predicted).astype(jnp.int32)


class Tally:
  """Adds up the confusion matrices of batches on the devices."""

  def __init__(self):
    self._matrix: Any = 0

  def __call__(self, probabilities: jax.Array, labels: jax.Array, mask: jax.Array) -> None:
    """Adds a batch; the arguments are those of `confusion`."""
    self._matrix = self._matrix + confusion(probabilities, labels, mask)

  def matrix(self) -> np.ndarray:
    """Returns the sum, int32 `[classes, classes]`."""
    return np.asarray(self._matrix)


def write(path: str | pathlib.Path, content: dict[str, Any]) -> None:
  """Writes what `describe` returned, and more, as JSON with one line for each class."""
  lines = {
    key: [json.dumps(row) for row in value] for key, value in content.items() if key in _TABLES
  }
  parts = [
    f'{json.dumps(key)}: [\n  ' + ',\n  '.join(lines[key]) + '\n ]'
    if key in lines
    else f'{json.dumps(key)}: {json.dumps(value)}'
    for key, value in content.items()
  ]
  atomic_io.write(pathlib.Path(path), '{\n ' + ',\n '.join(parts) + '\n}\n')


def describe(matrix: np.ndarray, names: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
  """Describes how well each class is recognised.

  Args:
    matrix: int `[classes, classes]`, as `confusion` returns it.
    names: names of the classes.
    labels: names of the classes in words.

  Returns:
    `macro_f1`, the mean F1 of the classes that have images, in per cent; `classes`, a list of `name`,
    `label`, `images`, `accuracy` (recall), `precision` and `f1`, the last three in per cent; and `confusion`,
    the matrix as lists. A value is None if it would be 0 divided by 0.
  """
  counts = np.diagonal(matrix), matrix.sum(1), matrix.sum(0)
  return figures(*counts, names, labels) | {'confusion': matrix.tolist()}


def figures(
  right: np.ndarray,
  images: np.ndarray,
  predicted: np.ndarray,
  names: Sequence[str],
  labels: Sequence[str],
) -> dict[str, Any]:
  """Returns what `describe` returns without the matrix.

  Args:
    right: number of images of each class that are recognised, int `[classes]`.
    images: number of images of each class.
    predicted: number of images that are predicted as each class.
    names: names of the classes.
    labels: names of the classes in words.
  """
  rows: list[dict[str, Any]] = []
  for k, name in enumerate(names):
    rows.append(
      {
        'name': name,
        'label': labels[k],
        'images': int(images[k]),
        'accuracy': _share(right[k], images[k]),
        'precision': _share(right[k], predicted[k]),
        'f1': _share(2 * right[k], images[k] + predicted[k]),
      }
    )
  scores = [row['f1'] for row in rows if row['images']]
  return {
    'macro_f1': sum(scores) / len(scores) if scores else None,
    'classes': rows,
  }


def _share(part: int, whole: int) -> float | None:
  return float(100 * part / whole) if whole else None
