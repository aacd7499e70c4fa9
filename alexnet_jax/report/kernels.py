"""Figure 3 of the paper: the kernels of the first layer, and how far the towers specialise.

Section 6.1 of the paper says that "the kernels on GPU 1 are largely color-agnostic, while the kernels on
GPU 2 are largely color-specific". `specialisation` measures this.
"""

from collections.abc import Mapping

import numpy as np

_MOST_COLUMNS = 8  # kernels in a row of the picture
_SHUFFLES = 1000  # random divisions of the kernels into two towers, for the permutation test


def picture(kernels: np.ndarray) -> np.ndarray:
  """Draws the kernels of one tower in a grid, each scaled to the whole range of grey levels.

  Args:
    kernels: float `[size, size, 1 or 3, maps]`.

  Returns:
    uint8 `[H, W, 3]`, with a line of mid-gray pixels between kernels.
  """
  size, maps = kernels.shape[0], kernels.shape[-1]
  columns = min(_MOST_COLUMNS, maps)
  rows = -(-maps // columns)
  sheet = np.full((rows * (size + 1) + 1, columns * (size + 1) + 1, 3), 128, np.uint8)
  largest = np.maximum(np.abs(kernels).max((0, 1, 2)), np.finfo(np.float32).tiny)
  levels = np.round(127.5 + 127.5 * kernels / largest).astype(np.uint8)
  for i in range(maps):
    top, left = (n * (size + 1) + 1 for n in divmod(i, columns))
    sheet[top : top + size, left : left + size] = levels[..., i]
  return sheet


def colourfulness(kernels: np.ndarray) -> np.ndarray:
  """Returns the colour share of each kernel: the share of its sum of squares that a gray version loses.

  It is 0 for a kernel that is equal in red, green and blue, 2/3 on average for random numbers, and 1
  for a kernel that does not respond to gray.

  Args:
    kernels: float `[size, size, 3, maps]`.

  Returns:
    float64 `[maps]`, from 0 to 1; 0 for a kernel of zeros.
  """
  kernels = kernels.astype(np.float64)
  coloured = ((kernels - kernels.mean(2, keepdims=True)) ** 2).sum((0, 1, 2))
  return coloured / np.maximum((kernels**2).sum((0, 1, 2)), np.finfo(float).tiny)


def specialisation(params: Mapping) -> dict[str, object]:
  """Measures how far the two towers specialise in colour.

  Args:
    params: parameters of a network with a layer conv1, whose kernel is `[towers, size, size, 3, maps]`.

  Returns:
    `colour`: mean `colourfulness` of each tower. With two towers also `difference`, the absolute
    difference of the two means, and `by_chance`, the 95th percentile of that difference over random
    divisions of the same kernels into two towers.
  """
  towers = [colourfulness(kernel) for kernel in np.asarray(params['conv1']['kernel'])]
  result: dict[str, object] = {'colour': [float(tower.mean()) for tower in towers]}
  if len(towers) == 2:
    all_kernels, half = np.concatenate(towers), len(towers[0])
    draws = np.random.default_rng(0).permuted(np.tile(all_kernels, (_SHUFFLES, 1)), axis=1)
    chance = np.abs(draws[:, :half].mean(1) - draws[:, half:].mean(1))
    result['difference'] = float(abs(towers[0].mean() - towers[1].mean()))
    result['by_chance'] = float(np.quantile(chance, 0.95))
  return result
