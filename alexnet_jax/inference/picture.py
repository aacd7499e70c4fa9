"""Figure 4 (left) of the paper: images with their true labels and the five most probable labels."""

from collections.abc import Mapping, Sequence
import itertools
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.utils import atomic_io, output_path
from alexnet_jax.utils.optional_import import import_module

COLUMNS, MAX_IMAGES = 4, 24  # panels in a row; images in a picture
SUFFIXES = ('.png', '.pdf', '.svg', '.jpg')
_RIGHT, _WRONG = '#e8a0a0', '#9db8e8'  # bars of the true label and of other labels, as in the paper
_MAX_LETTERS = 26  # longest label
_WIDTH, _BAR_HEIGHT = 2.4, 0.22  # of a panel, and of each of its bars, in inches


class Panel(NamedTuple):
  """One image of a picture.

  Attributes:
    image: uint8 `[H, W, 3]`, RGB.
    top: the most probable labels, `[{'label', 'probability'}, ...]`, in order.
    truth: the true label, or None if it is unknown.
  """

  image: np.ndarray
  top: Sequence[Mapping]
  truth: str | None


def check(path: str) -> None:
  """Raises UserError if `path` cannot be written or has an unknown format, or without matplotlib."""
  output_path.check(path, SUFFIXES, '--picture')
  _figures()


def _figures() -> Any:
  """Imports matplotlib, which takes a second."""
  return import_module('matplotlib.figure', 'report', '--picture')


def choose(paths: Sequence[str]) -> list[str]:
  """Returns at most `MAX_IMAGES` paths, from every folder in turn, in the given order."""
  folders: dict[str, list[str]] = {}
  for path in paths:
    folders.setdefault(os.path.dirname(path), []).append(path)
  turns = itertools.chain.from_iterable(itertools.zip_longest(*folders.values()))
  chosen = set(itertools.islice((path for path in turns if path is not None), MAX_IMAGES))
  return [path for path in paths if path in chosen]


def draw(path: str, panels: Sequence[Panel]) -> None:
  """Writes the picture under a temporary name and renames it.

  Args:
    path: a file name that ends in one of `SUFFIXES`.
    panels: at most `MAX_IMAGES`.
  """
  columns = min(COLUMNS, len(panels))
  rows = -(-len(panels) // columns)
  bars = max(len(panel.top) for panel in panels)
  heights = [
    1.06 * _WIDTH,
    0.3 + _BAR_HEIGHT * bars,
  ]  # of images (with a margin), of titles and bars
  figure = _figures().Figure((_WIDTH * columns, sum(heights) * rows), layout='constrained')
  grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=heights * rows)
  for axes in grid.flat:
    axes.set_axis_off()
  for i, panel in enumerate(panels):
    row, column = divmod(i, columns)
    image_axes, bar_axes = grid[2 * row][column], grid[2 * row + 1][column]
    image_axes.imshow(panel.image)
    if panel.truth:
      bar_axes.set_title(_shorten(panel.truth), fontsize=9, pad=3, parse_math=False)
    _draw_bars(bar_axes, panel.top, panel.truth, bars)
  with atomic_io.replacing(path) as file:
    figure.savefig(file, dpi=120, format=pathlib.Path(path).suffix[1:].lower())


def _draw_bars(axes, top: Sequence[Mapping], truth: str | None, bars: int) -> None:
  """Draws one bar per label, from the top down, with per cents on the right.

  The bar of the true label has another colour. All panels leave room for the same number of bars.
  """
  for i, guess in enumerate(top):
    colour = _RIGHT if guess['label'] == truth else _WRONG
    axes.barh(i, guess['probability'], height=0.9, color=colour)
    label, share = _shorten(guess['label']), f'{100 * guess["probability"]:.0f} %'
    axes.text(0.02, i, label, fontsize=8, va='center', clip_on=True, parse_math=False)
    axes.text(0.98, i, share, fontsize=8, va='center', ha='right')
  axes.set(xlim=(0, 1), ylim=(max(bars, 2) - 0.5, -0.5))


def _shorten(label: str) -> str:
  label = label or ''
  return label if len(label) <= _MAX_LETTERS else f'{label[: _MAX_LETTERS - 3].rstrip()}...'
