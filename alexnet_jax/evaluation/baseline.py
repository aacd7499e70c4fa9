"""Baselines that a network must beat: the most frequent class, and ridge regression on 16x16 pixels."""

from collections.abc import Sequence

import numpy as np

from alexnet_jax.data import Dataset

_SIDE = 16  # images are reduced to the means of 16x16 blocks, in RGB
_PENALTIES = 10.0 ** np.arange(-4, 5)
_FOLDS = 5
_BATCH = 128


def majority_error(class_counts: Sequence[int], labels: np.ndarray) -> float | None:
  """Returns the error of always predicting the most frequent class of the training images, in per cent.

  Args:
    class_counts: number of training images of each class.
    labels: int `[N]`, on which the error is measured.

  Returns:
    None if all counts are zero, as after an import of weights whose training images are unknown.
  """
  if not any(class_counts):
    return None
  return float(100 * np.mean(labels != int(np.argmax(class_counts))))


def _pixel_means(dataset: Dataset, split: str, size: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns the block means of the centre view of every readable image, `[N, 768]`, and labels `[N]`."""
  features, labels = [], []
  for batch in dataset.eval_batches(_BATCH, split=split):
    margin = (batch['image'].shape[1] - size) // 2
    images = batch['image'][batch['mask'], margin : margin + size, margin : margin + size]
    # Block borders are rounded, so the view may have any size. Below 16 pixels, the blocks are pixels.
    blocks = min(_SIDE, images.shape[1])
    edges = np.linspace(0, images.shape[1], blocks + 1).round().astype(int)
    sums = np.add.reduceat(images, edges[:-1], axis=1, dtype=np.float64)
    sums = np.add.reduceat(sums, edges[:-1], axis=2)
    sizes = np.diff(edges)
    means = sums / np.outer(sizes, sizes)[None, :, :, None]
    features.append(means.reshape(len(means), -1))
    labels.append(batch['label'][batch['mask']])
  return np.concatenate(features), np.concatenate(labels)


def _fit(x: np.ndarray, y: np.ndarray, penalties: np.ndarray) -> list[np.ndarray]:
  """Fits ridge regression.

  Args:
    x: standardised features, `[N, D]`.
    y: centred one-hot targets, `[N, K]`.
    penalties: as shares of the mean eigenvalue of x'x.

  Returns:
    The weights `[D, K]` for each penalty.
  """
  values, vectors = np.linalg.eigh(x.T @ x)
  projected = vectors.T @ (x.T @ y)
  scale = max(values.mean(), np.finfo(float).tiny)
  return [vectors @ (projected / (values + p * scale)[:, None]) for p in penalties]


def ridge_error(dataset: Dataset, size: int) -> float:
  """Returns the validation error, in per cent, of ridge regression on 16x16 block means of the centre view.

  The regression predicts one-hot targets from standardised features. Its penalty is chosen by 5-fold
  cross-validation on the training split, so the validation images are used once.

  Args:
    dataset: an open dataset with both splits.
    size: side of the centre view of each canvas, in pixels: what a network sees in one view.
  """
  x, labels = _pixel_means(dataset, 'train', size)
  centre, spread = x.mean(0), x.std(0) + 1e-9
  x = (x - centre) / spread
  targets = np.eye(len(dataset.class_names))[labels]
  offset = targets.mean(0)
  targets = targets - offset
  folds = np.random.default_rng(0).permutation(len(x)) % _FOLDS
  wrong = np.zeros(len(_PENALTIES))
  for fold in range(min(_FOLDS, len(x))):
    fitted, held_out = folds != fold, folds == fold
    for i, weights in enumerate(_fit(x[fitted], targets[fitted], _PENALTIES)):
      predicted = np.argmax(x[held_out] @ weights + offset, 1)
      wrong[i] += (predicted != labels[held_out]).sum()
  (weights,) = _fit(x, targets, _PENALTIES[[np.argmin(wrong)]])
  test, test_labels = _pixel_means(dataset, 'validation', size)
  predicted = np.argmax((test - centre) / spread @ weights + offset, 1)
  return float(100 * np.mean(predicted != test_labels))
