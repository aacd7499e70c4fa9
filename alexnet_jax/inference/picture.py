"""The paper's Figure 4, left: images, each with its true label and the five labels thought likeliest."""

from collections.abc import Mapping, Sequence
import os
import pathlib
import textwrap

import numpy as np

from alexnet_jax.errors import UserError

COLUMNS, MOST = 4, 24  # panels in a row; images in a picture
SUFFIXES = ('.png', '.pdf', '.svg', '.jpg')
_RIGHT, _WRONG = '#e8a0a0', '#9db8e8'  # bars of the true label and of others, as in the paper
_LETTERS = 30  # of a label


def check(path: str) -> None:
  """Raises UserError where no picture can be written to `path`."""
  if not path.lower().endswith(SUFFIXES):
    raise UserError(f'--picture={path}: end its name in one of {", ".join(SUFFIXES)}')


def draw(
  path: str,
  images: Sequence[np.ndarray],
  tops: Sequence[Sequence[Mapping]],
  truths: Sequence[str | None] | None = None,
) -> None:
  """Writes the picture under a temporary name and renames it.

  Args:
    path: ends in one of `SUFFIXES`.
    images: uint8 `[H, W, 3]` RGB, at most `MOST`.
    tops: of each the likeliest labels, `[{'label', 'probability'}, ...]`, the likeliest first.
    truths: of each the true label, in the words of `tops`, None where it is not known.
  """
  from matplotlib.figure import Figure  # imported late: it takes a second

  truths = truths or [None] * len(images)
  columns = min(COLUMNS, len(images))
  rows = -(-len(images) // columns)
  bars = max(len(top) for top in tops)
  figure = Figure((2.4 * columns, (2.5 + 0.2 * bars) * rows), layout='constrained')
  grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[2.2, 0.2 * bars] * rows)
  for axes in grid.flat:
    axes.set_axis_off()
  for i, (image, top, truth) in enumerate(zip(images, tops, truths, strict=True)):
    row, column = divmod(i, columns)
    above, below = grid[2 * row][column], grid[2 * row + 1][column]
    above.imshow(image)
    if truth:
      below.set_title(_short(truth), fontsize=9, pad=3, parse_math=False)
    _bars(below, top, truth)
  place = pathlib.Path(path)
  place.absolute().parent.mkdir(parents=True, exist_ok=True)
  temporary = place.with_name(f'{place.stem}.{os.getpid()}{place.suffix}')
  figure.savefig(temporary, dpi=120)
  os.replace(temporary, path)


def _bars(axes, top: Sequence[Mapping], truth: str | None) -> None:
  """A bar a label, the true one in another colour, from the top down."""
  for place, guess in enumerate(top):
    colour = _RIGHT if guess['label'] == truth else _WRONG
    axes.barh(place, guess['probability'], height=0.9, color=colour)
    axes.text(
      0.02, place, _short(guess['label']), fontsize=8, va='center', clip_on=True, parse_math=False
    )
  axes.set(xlim=(0, 1), ylim=(max(len(top), 2) - 0.5, -0.5))


def _short(label: str) -> str:
  return textwrap.shorten(label, _LETTERS, placeholder='...') if label else ''
