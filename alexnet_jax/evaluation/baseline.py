"""Baselines that a network must beat: the most frequent class, and ridge regression on 16x16 pixels."""

from collections.abc import Iterator, Sequence

import numpy as np

from alexnet_jax.data import Dataset

_SIDE = 16  # images are reduced to the means of 16x16 blocks, in RGB
_PENALTIES = 10.0 ** np.arange(-4, 5)
_FOLDS = 5
_BATCH = 128
_ROWS = 1024  # images that are converted to float64 at a time


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
  """Computes the features of every readable image.

  Returns:
    The block means of the centre view, float32 `[N, 768]`, and the labels, int `[N]`.
  """
  # Block borders are rounded, so the view may have any size. Below 16 pixels, the blocks are pixels.
  blocks = min(_SIDE, size)
  edges = np.linspace(0, size, blocks + 1).round().astype(int)
  areas = np.outer(np.diff(edges), np.diff(edges))[None, :, :, None]
  total, found = dataset.num_train if split == 'train' else dataset.num_validation, 0
  features, labels = np.empty((total, 3 * blocks**2), np.float32), []
  for batch in dataset.eval_batches(_BATCH, split=split):
    margin = (batch['image'].shape[1] - size) // 2
    images = batch['image'][batch['mask'], margin : margin + size, margin : margin + size]
    sums = np.add.reduceat(images, edges[:-1], axis=1, dtype=np.float64)
    means = np.add.reduceat(sums, edges[:-1], axis=2) / areas
    features[found : found + len(means)] = means.reshape(len(means), -1)
    found += len(means)
    labels.append(batch['label'][batch['mask']])
  return features[:found], np.concatenate(labels)


def _parts(x: np.ndarray) -> Iterator[np.ndarray]:
  """Yields the rows of `x` in float64, a few at a time."""
  for start in range(0, len(x), _ROWS):
    yield x[start : start + _ROWS].astype(np.float64)


def _moments(x: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns x'x, `[D, D]`, and x't for one-hot targets t, `[D, K]`: the sum of x over each class."""
  products = sum((part.T @ part for part in _parts(x)), np.zeros((x.shape[1],) * 2))
  sums = [np.bincount(labels, weights=column, minlength=classes) for column in x.T]
  return products, np.stack(sums)


def _fit(products: np.ndarray, targets: np.ndarray, penalties: np.ndarray) -> list[np.ndarray]:
  """Fits ridge regression.

  Args:
    products: x'x for standardised features x, `[D, D]`.
    targets: x'y for centred one-hot targets y, `[D, K]`.
    penalties: as shares of the mean eigenvalue of x'x.

  Returns:
    The weights `[D, K]` for each penalty.
  """
  values, vectors = np.linalg.eigh(products)
  projected = vectors.T @ targets
  scale = max(values.mean(), np.finfo(float).tiny)
  return [vectors @ (projected / (values + p * scale)[:, None]) for p in penalties]


def ridge_error(dataset: Dataset, size: int) -> float:
  """Returns the validation error, in per cent, of ridge regression on 16x16 block means of the centre view.

  The regression predicts one-hot targets from standardised features. Its penalty is chosen by 5-fold
  cross-validation on the training split, so the validation images are used once. It takes about 4 kB of
  memory for each training image.

  Args:
    dataset: an open dataset with both splits.
    size: side of the centre view of each canvas, in pixels: what a network sees in one view.
  """
  x, labels = _pixel_means(dataset, 'train', size)
  centre = x.mean(0, dtype=np.float64)
  x -= centre
  spread = np.sqrt(np.einsum('nd,nd->d', x, x, dtype=np.float64) / len(x)) + 1e-9
  x /= spread
  classes = len(dataset.class_names)
  offset = np.bincount(labels, minlength=classes) / len(x)

  def wrong(x: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> int:
    predicted = [np.argmax(part @ weights + offset, 1) for part in _parts(x)]
    return int((np.concatenate(predicted) != labels).sum())

  folds = np.random.default_rng(0).permutation(len(x)) % _FOLDS
  held_out = [folds == fold for fold in range(min(_FOLDS, len(x)))]
  moments = [_moments(x[rows], labels[rows], classes) for rows in held_out]
  products, sums = (np.sum(of_folds, 0) for of_folds in zip(*moments, strict=True))

  def fit(products: np.ndarray, sums: np.ndarray, penalties: np.ndarray) -> list[np.ndarray]:
    return _fit(products, sums - np.outer(sums.sum(1), offset), penalties)

  errors = np.zeros(len(_PENALTIES), int)
  for rows, (own_products, own_sums) in zip(held_out, moments, strict=True):
    fitted = fit(products - own_products, sums - own_sums, _PENALTIES)
    errors += [wrong(x[rows], labels[rows], weights) for weights in fitted]
  (weights,) = fit(products, sums, _PENALTIES[[np.argmin(errors)]])
  test, test_labels = _pixel_means(dataset, 'validation', size)
  test -= centre
  test /= spread
  return 100 * wrong(test, test_labels, weights) / len(test_labels)
