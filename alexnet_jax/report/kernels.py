"""Figure 3 of the paper: what the first layer learnt, tower by tower, and how far the towers part.

"The kernels on GPU 1 are largely color-agnostic, while the kernels on GPU 2 are largely color-specific"
(section 6.1): here with a measure of it.
"""

from collections.abc import Mapping

import numpy as np

_SHUFFLES = 1000  # of the kernels over the towers, to know what chance alone would give


def picture(kernels: np.ndarray, most_columns: int = 8) -> np.ndarray:
  """The kernels of one tower side by side, each stretched to the whole range of grey levels.

  Args:
    kernels: float `[size, size, 1 or 3, maps]`.
    most_columns: how many stand in a row, at most.

  Returns:
    uint8 `[H, W, 3]`, a line of mid-gray pixels between kernels.
  """
  size, maps = kernels.shape[0], kernels.shape[-1]
  columns = min(most_columns, maps)
  rows = -(-maps // columns)
  sheet = np.full((rows * (size + 1) + 1, columns * (size + 1) + 1, 3), 128, np.uint8)
  largest = np.maximum(np.abs(kernels).max((0, 1, 2)), np.finfo(np.float32).tiny)
  levels = np.round(127.5 + 127.5 * kernels / largest).astype(np.uint8)
  for i in range(maps):
    top, left = (n * (size + 1) + 1 for n in divmod(i, columns))
    sheet[top : top + size, left : left + size] = levels[..., i]
  return sheet


def colourfulness(kernels: np.ndarray) -> np.ndarray:
  """How much of each kernel is colour: the share of its squares that is lost when it is made gray.

  0 for a kernel that treats red, green and blue alike, 2/3 on average for random numbers, 1 for one that
  does not see gray at all.

  Args:
    kernels: float `[size, size, 3, maps]`.

  Returns:
    float64 `[maps]`, in 0 ... 1; 0 for a kernel of zeros.
  """
  kernels = kernels.astype(np.float64)
  coloured = ((kernels - kernels.mean(2, keepdims=True)) ** 2).sum((0, 1, 2))
  return coloured / np.maximum((kernels**2).sum((0, 1, 2)), np.finfo(float).tiny)


def specialisation(params: Mapping) -> dict[str, object]:
  """How differently the two towers see colour.

  Args:
    params: of a network whose first layer is conv1, `[towers, size, size, 3, maps]`.

  Returns:
    `colour`: mean `colourfulness` of each tower; and of two towers `difference`, between them, and
    `by_chance`: what 95 of 100 random divisions of the same kernels into two towers stay below.
  """
  towers = [colourfulness(kernel) for kernel in np.asarray(params['conv1']['kernel'])]
  result: dict[str, object] = {'colour': [float(tower.mean()) for tower in towers]}
  if len(towers) == 2:
    every, half = np.concatenate(towers), len(towers[0])
    draws = np.random.default_rng(0).permuted(np.tile(every, (_SHUFFLES, 1)), axis=1)
    chance = np.abs(draws[:, :half].mean(1) - draws[:, half:].mean(1))
    result['difference'] = float(abs(towers[0].mean() - towers[1].mean()))
    result['by_chance'] = float(np.quantile(chance, 0.95))
  return result
