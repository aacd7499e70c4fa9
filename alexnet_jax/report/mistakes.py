"""The mistakes of a network: confused pairs of classes, losses of single images, and misplaced confidence."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_SURE = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)  # lower bounds of the groups of `confidence`


class Predictions(NamedTuple):
  """What a network says about N images. For many classes, all probabilities would not fit into memory.

  Attributes:
    labels: int `[N]`.
    indices: of the images in their split, int `[N]`.
    own: the probability of the label, float `[N]`.
    best: the K most probable classes, the most probable first, int `[N, K]`.
    top: their probabilities, float `[N, K]`.
  """

  labels: np.ndarray
  indices: np.ndarray
  own: np.ndarray
  best: np.ndarray
  top: np.ndarray


def losses(own: np.ndarray) -> np.ndarray:
  """Returns the negative logarithms, in nats and float64, of the probabilities of labels."""
  return -np.log(np.maximum(own.astype(np.float64), np.finfo(np.float32).tiny))


def confused_pairs(
  predicted: np.ndarray, labels: np.ndarray, names: Sequence[str], most: int
) -> list[dict[str, object]]:
  """Returns the pairs of classes that are confused most often.

  Args:
    predicted: the most probable class of each image, int `[N]`.
    labels: int `[N]`.
    names: names of the classes.
    most: largest number of pairs.

  Returns:
    `[{'label', 'predicted', 'count', 'of'}, ...]`, the most frequent first: `count` of the `of` images
    of class `label` were classified as `predicted`.
  """
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


def confidence(largest: np.ndarray, right: np.ndarray) -> list[dict[str, float]]:
  """Groups the images by the probability of the predicted class.

  Args:
    largest: the probability of the predicted class of each image, float `[N]`.
    right: whether it is the label, bool `[N]`.

  Returns:
    For each group that has images: the bounds `low` and `high` of the probability, the number of `images`,
    the mean `probability` and the share that is `right`. All but the number are in per cent.
  """
  group = np.searchsorted(_SURE, largest, side='right') - 1
  rows = []
  for k, (low, high) in enumerate(zip(_SURE, (*_SURE[1:], 1.0), strict=True)):
    inside = group == k
    if inside.any():
      rows.append(
        {
          'low': 100 * low,
          'high': 100 * high,
          'images': int(inside.sum()),
          'probability': float(100 * largest[inside].mean()),
          'right': float(100 * right[inside].mean()),
        }
      )
  return rows
