"""What a network must beat: the most frequent class, and ridge regression on coarse pixels."""

from collections.abc import Sequence

import numpy as np

from alexnet_jax.data import Dataset

_SIDE = 16  # the images are averaged down to 16x16 RGB pixels
_PENALTIES = 10.0 ** np.arange(-4, 5)
_FOLDS = 5
_BATCH = 128


def majority_error(class_counts: Sequence[int], labels: np.ndarray) -> float:
  """Error, in per cent, on `labels` int `[N]` of always saying the class most frequent in training."""
  return float(100 * np.mean(labels != int(np.argmax(class_counts))))


def _pixel_means(dataset: Dataset, split: str, size: int) -> tuple[np.ndarray, np.ndarray]:
  """Block means of the centre view of every readable image: float64 `[N, 768]`, and labels `[N]`."""
  features, labels = [], []
  for batch in dataset.eval_batches(_BATCH, split=split):
    margin = (batch['image'].shape[1] - size) // 2
    images = batch['image'][batch['mask'], margin : margin + size, margin : margin + size]
    # Block borders are rounded, so that any view of 16 pixels or more will do.
    edges = np.linspace(0, images.shape[1], _SIDE + 1).round().astype(int)
    sums = np.add.reduceat(images, edges[:-1], axis=1, dtype=np.float64)
    sums = np.add.reduceat(sums, edges[:-1], axis=2)
    sizes = np.diff(edges)
    means = sums / np.outer(sizes, sizes)[None, :, :, None]
    features.append(means.reshape(len(means), -1))
    labels.append(batch['label'][batch['mask']])
  return np.concatenate(features), np.concatenate(labels)


def _fit(x: np.ndarray, y: np.ndarray, penalties: np.ndarray) -> list[np.ndarray]:
  """Ridge weights for standardised `x` `[N, D]` and one-hot `y` `[N, K]`, one `[D, K]` a penalty.

  A penalty is a share of the mean eigenvalue of x'x.
  """
  values, vectors = np.linalg.eigh(x.T @ x)
  projected = vectors.T @ (x.T @ y)
  scale = max(values.mean(), np.finfo(float).tiny)
  return [vectors @ (projected / (values + p * scale)[:, None]) for p in penalties]


def ridge_error(dataset: Dataset, size: int) -> float:
  """Validation error, in per cent, of ridge regression on 16x16 pixel means of the centre view.

  It sees what a network sees in one view: the central `size` x `size` pixels of each canvas.

  One-hot targets on standardised features; the penalty is chosen by 5-fold cross-validation inside the
  training split, so the validation images are seen once.
  """
  x, labels = _pixel_means(dataset, 'train', size)
  center, spread = x.mean(0), x.std(0) + 1e-9
  x = (x - center) / spread
  targets = np.eye(len(dataset.class_names))[labels]
  offset = targets.mean(0)
  targets = targets - offset
  folds = np.random.default_rng(0).permutation(len(x)) % _FOLDS
  wrong = np.zeros(len(_PENALTIES))
  for fold in range(min(_FOLDS, len(x))):
    inside, outside = folds != fold, folds == fold
    for i, weights in enumerate(_fit(x[inside], targets[inside], _PENALTIES)):
      wrong[i] += (np.argmax(x[outside] @ weights + offset, 1) != labels[outside]).sum()
  (weights,) = _fit(x, targets, _PENALTIES[[np.argmin(wrong)]])
  test, test_labels = _pixel_means(dataset, 'validation', size)
  predicted = np.argmax((test - center) / spread @ weights + offset, 1)
  return float(100 * np.mean(predicted != test_labels))
