"""The mistakes of a network: confused pairs of classes, and losses of single images."""

from collections.abc import Sequence

import numpy as np


def losses(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Returns the negative log probability of the label of each image, in nats.

  Args:
    probabilities: float `[N, classes]`.
    labels: int `[N]`.

  Returns:
    float64 `[N]`.
  """
  own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
  return -np.log(np.maximum(own, np.finfo(np.float32).tiny))


def confused_pairs(
  probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str], most: int
) -> list[dict[str, object]]:
  """Returns the pairs of classes that are confused most often.

  Args:
    probabilities: float `[N, classes]`.
    labels: int `[N]`.
    names: names of the classes.
    most: largest number of pairs.

  Returns:
    `[{'label', 'predicted', 'count', 'of'}, ...]`, the most frequent first: `count` of the `of` images
    of class `label` were classified as `predicted`.
  """
  predicted = probabilities.argmax(1)
  wrong = predicted != labels
  pairs, counts = np.unique(np.stack([labels, predicted])[:, wrong], axis=1, return_counts=True)
  order = np.argsort(-counts, kind='stable')[:most]
  return [
    {
      'label': names[pairs[0, i]],
      'predicted': names[pairs[1, i]],
      'count': int(counts[i]),
      'of': int((labels == pairs[0, i]).sum()),
    }
    for i in order
  ]
