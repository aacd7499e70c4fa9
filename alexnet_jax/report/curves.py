"""Training curves from metrics.jsonl, as pictures for a page that may be light or dark."""

import base64
import io
import json
import pathlib

_INK = '#808080'  # legible on white and on black
_COLOURS = ('#3b82c4', '#d9772b', '#2f9e6e')
# A picture each: title, label of the axis, and the lines: key of metrics.jsonl and name.
_PICTURES = (
  ('Loss', 'cross-entropy', (('loss', 'training'), ('val/loss', 'validation'))),
  (
    'Error',
    'top-1 error, %',
    (
      ('train/top1_error', 'training, running'),
      ('train_set/top1_error', 'all training images'),
      ('val/top1_error', 'validation'),
    ),
  ),
)


def read(path: pathlib.Path) -> list[dict]:
  """The lines of metrics.jsonl; none where there is no such file, as of an imported network."""
  if not path.exists():
    return []
  rows = []
  for line in path.read_text().splitlines():
    try:
      rows.append(json.loads(line))
    except ValueError:
      break  # torn by a kill
  return rows


def draw(path: pathlib.Path) -> list[dict[str, str]]:
  """Pictures of a run's curves: `[{'title', 'src' (a data: address of an SVG), 'alt'}, ...]`."""
  rows = read(path)
  pictures = []
  for title, unit, lines in _PICTURES:
    found = {
      name: [(row['epoch'], row[key]) for row in rows if key in row and 'epoch' in row]
      for key, name in lines
    }
    found = {name: points for name, points in found.items() if points}
    if found:
      pictures.append({'title': title, 'src': _svg(found, unit), 'alt': _words(title, found)})
  return pictures


def _words(title: str, found: dict[str, list[tuple[float, float]]]) -> str:
  ends = (
    f'{name} from {points[0][1]:.3g} to {points[-1][1]:.3g}' for name, points in found.items()
  )
  last = max(points[-1][0] for points in found.values())
  return f'{title} over {last:.3g} epochs: {"; ".join(ends)}'


def _svg(found: dict[str, list[tuple[float, float]]], unit: str) -> str:
  from matplotlib import rc_context
  from matplotlib.figure import Figure

  with rc_context({'svg.hashsalt': 'alexnet_jax', 'text.color': _INK, 'axes.edgecolor': _INK}):
    figure = Figure(figsize=(5, 3.2), layout='constrained')
    axes = figure.add_subplot(xlabel='epochs', ylabel=unit)
    for (name, points), colour in zip(found.items(), _COLOURS, strict=False):
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
