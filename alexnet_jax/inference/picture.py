"""Figure 4 (left) of the paper: images with their true labels and the five most probable labels."""

from collections.abc import Mapping, Sequence
import os
import pathlib
import textwrap
from typing import Any

import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.utils.optional_import import import_module

COLUMNS, MAX_IMAGES = 4, 24  # panels in a row; images in a picture
SUFFIXES = ('.png', '.pdf', '.svg', '.jpg')
_RIGHT, _WRONG = '#e8a0a0', '#9db8e8'  # bars of the true label and of other labels, as in the paper
_MAX_LETTERS = 30  # longest label


def check(path: str) -> None:
  """Raises UserError if `path` has an unknown file format, or matplotlib is not installed."""
  if not path.lower().endswith(SUFFIXES):
    raise UserError(f'--picture={path}: use a name that ends in one of {", ".join(SUFFIXES)}')
  _figures()


def _figures() -> Any:
  """Imports matplotlib, which takes a second."""
  return import_module('matplotlib.figure', 'report', '--picture')


def draw(
  path: str,
  images: Sequence[np.ndarray],
  tops: Sequence[Sequence[Mapping]],
  truths: Sequence[str | None],
) -> None:
  """Writes the picture under a temporary name and renames it.

  Args:
    path: a file name that ends in one of `SUFFIXES`.
    images: uint8 `[H, W, 3]` RGB, at most `MAX_IMAGES`.
    tops: the most probable labels of each image, `[{'label', 'probability'}, ...]`, in order.
    truths: the true label of each image, or None if it is unknown.
  """
  columns = min(COLUMNS, len(images))
  rows = -(-len(images) // columns)
  bars = max(len(top) for top in tops)
  figure = _figures().Figure((2.4 * columns, (2.5 + 0.2 * bars) * rows), layout='constrained')
  grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[2.2, 0.2 * bars] * rows)
  for axes in grid.flat:
    axes.set_axis_off()
  for i, (image, top, truth) in enumerate(zip(images, tops, truths, strict=True)):
    row, column = divmod(i, columns)
    image_axes, bar_axes = grid[2 * row][column], grid[2 * row + 1][column]
    image_axes.imshow(image)
    if truth:
      bar_axes.set_title(_shorten(truth), fontsize=9, pad=3, parse_math=False)
    _draw_bars(bar_axes, top, truth)
  target = pathlib.Path(path)
  target.absolute().parent.mkdir(parents=True, exist_ok=True)
  temporary = target.with_name(f'{target.stem}.{os.getpid()}{target.suffix}')
  figure.savefig(temporary, dpi=120)
  os.replace(temporary, path)


def _draw_bars(axes, top: Sequence[Mapping], truth: str | None) -> None:
  """Draws one bar per label, from the top down; the bar of the true label has another colour."""
  for i, guess in enumerate(top):
    colour = _RIGHT if guess['label'] == truth else _WRONG
    axes.barh(i, guess['probability'], height=0.9, color=colour)
    label = _shorten(guess['label'])
    axes.text(0.02, i, label, fontsize=8, va='center', clip_on=True, parse_math=False)
  axes.set(xlim=(0, 1), ylim=(max(len(top), 2) - 0.5, -0.5))


def _shorten(label: str) -> str:
  return textwrap.shorten(label, _MAX_LETTERS, placeholder='...') if label else ''
