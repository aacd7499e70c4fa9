"""Training curves from metrics.jsonl."""

import json
import math
import pathlib
from typing import Any

from alexnet_jax.report.charts import Guess, Points, chart

_ERROR = 'val/top1_error'
# The lines of each chart: (key in metrics.jsonl, name).
_LOSS = (('loss', 'training'), ('val/loss', 'validation'))
_ERRORS = (
  ('train/top1_error', 'training'),
  ('train_set/top1_error', 'all training images'),
  (_ERROR, 'validation'),
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


def draw(rows: list[dict], classes: int, epoch: float) -> dict[str, Any] | None:
  """Returns the charts of a run.

  Args:
    rows: those of metrics.jsonl.
    classes: number of classes.
    epoch: that of the checkpoint in the report.

  Returns:
    `main`, the charts of loss and error; `more`, those of learning rate and speed; and `best`, the (epoch,
    error in per cent) of the lowest validation error, the later of equals, or None. All charts are
    `charts.chart`. None if there is no curve.
  """
  best = None
  if errors := _points(rows, _ERROR):
    best = min(errors, key=lambda point: (point[1], -point[0]))
  plans = (
    ('Loss', 'cross-entropy in nats', _LOSS, Guess('guessing', math.log(classes)), None),
    ('Error', 'top-1 error, %', _ERRORS, Guess('guessing', 100 - 100 / classes), best),
    ('Learning rate', 'learning rate', (('lr', 'learning rate'),), None, None),
    ('Speed', 'training images per second', (('images_per_s', 'images per second'),), None, None),
  )
  charts = []
  for title, unit, keys, guess, dot in plans:
    lines = {name: points for key, name in keys if (points := _points(rows, key))}
    if lines:
      charts.append(chart(title, unit, lines, guess, epoch, dot))
  main = [drawn for drawn in charts if drawn['guess']]
  more = [drawn for drawn in charts if not drawn['guess']]
  return {'main': main, 'more': more, 'best': best} if charts else None


def _points(rows: list[dict], key: str) -> Points:
  """Returns the (epoch, value) of all rows that have the finite value `key`."""
  found = [(row['epoch'], row[key]) for row in rows if 'epoch' in row and key in row]
  return [(x, y) for x, y in found if math.isfinite(y)]
