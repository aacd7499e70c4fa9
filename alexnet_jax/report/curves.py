"""Training curves from metrics.jsonl, drawn for light and dark backgrounds."""

import base64
import io
import json
import pathlib
from typing import Any

from alexnet_jax.utils.optional_import import import_module

_INK = '#808080'  # legible on white and on black
_COLOURS = ('#3b82c4', '#d9772b', '#2f9e6e')
# Each plot: title, axis label, and its curves as (key in metrics.jsonl, name).
_PLOTS = (
  ('Loss', 'cross-entropy', (('loss', 'training'), ('val/loss', 'validation'))),
  (
    'Error',
    'top-1 error, %',
    (
      ('train/top1_error', 'training, running mean'),
      ('train_set/top1_error', 'all training images'),
      ('val/top1_error', 'validation'),
    ),
  ),
)


def read(path: pathlib.Path) -> list[dict]:
  """Returns the rows of metrics.jsonl; none if there is no such file, as for an imported network."""
  if not path.exists():
    return []
  rows = []
  for line in path.read_text().splitlines():
    try:
      rows.append(json.loads(line))
    except ValueError:
      break  # the run was killed while it wrote this line
  return rows


def draw(path: pathlib.Path) -> list[dict[str, str]]:
  """Plots the curves of a run.

  Args:
    path: metrics.jsonl.

  Returns:
    `[{'title', 'src', 'alt'}, ...]`, where `src` is a data: address of an SVG.
  """
  rows = read(path)
  plots = []
  for title, unit, keys in _PLOTS:
    curves = {
      name: [(row['epoch'], row[key]) for row in rows if key in row and 'epoch' in row]
      for key, name in keys
    }
    curves = {name: points for name, points in curves.items() if points}
    if curves:
      plots.append({'title': title, 'src': _svg(curves, unit), 'alt': _describe(title, curves)})
  return plots


def plotter() -> Any:
  """Imports matplotlib, which takes a second; raises UserError if it is not installed."""
  import_module('matplotlib.figure', 'report', '--mode=report')
  return import_module('matplotlib', 'report', '--mode=report')


def _describe(title: str, curves: dict[str, list[tuple[float, float]]]) -> str:
  ends = (
    f'{name} from {points[0][1]:.3g} to {points[-1][1]:.3g}' for name, points in curves.items()
  )
  last = max(points[-1][0] for points in curves.values())
  return f'{title} over {last:.3g} epochs: {"; ".join(ends)}'


def _svg(curves: dict[str, list[tuple[float, float]]], unit: str) -> str:
  matplotlib = plotter()
  with matplotlib.rc_context(
    {'svg.hashsalt': 'alexnet_jax', 'text.color': _INK, 'axes.edgecolor': _INK}
  ):
    figure = matplotlib.figure.Figure(figsize=(5, 3.2), layout='constrained')
    axes = figure.add_subplot(xlabel='epochs', ylabel=unit)
    for (name, points), colour in zip(curves.items(), _COLOURS, strict=False):
      marker = 'o' if len(points) < 2 else None
      axes.plot(*zip(*points, strict=True), color=colour, label=name, linewidth=1.4, marker=marker)
    axes.tick_params(colors=_INK)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    axes.spines[['top', 'right']].set_visible(False)
    axes.set_facecolor('none')
    axes.legend(frameon=False, labelcolor=_INK)
    stream = io.BytesIO()
    figure.savefig(stream, format='svg', transparent=True, metadata={'Date': None})
  return f'data:image/svg+xml;base64,{base64.b64encode(stream.getvalue()).decode()}'
