"""What a network gets wrong: pairs of classes that it confuses, and the images that cost it most."""

from collections.abc import Sequence

import numpy as np


def losses(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Negative log probability of each label: `[N, classes]`, int `[N]` -> float64 `[N]`."""
  own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
  return -np.log(np.maximum(own, np.finfo(np.float32).tiny))


def confused_pairs(
  probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str], most: int
) -> list[dict[str, object]]:
  """The pairs of classes that are confused most often.

  Returns:
    `[{'label', 'said', 'count', 'of'}, ...]`: `count` of the `of` images of class `label` were taken for
    `said`. The most frequent first, `most` at the most; mistakes alone.
  """
  said = probabilities.argmax(1)
  wrong = said != labels
  pairs, counts = np.unique(np.stack([labels, said])[:, wrong], axis=1, return_counts=True)
  order = np.argsort(-counts, kind='stable')[:most]
  return [
    {
      'label': names[pairs[0, i]],
      'said': names[pairs[1, i]],
      'count': int(counts[i]),
      'of': int((labels == pairs[0, i]).sum()),
    }
    for i in order
  ]
