"""Charts as values for the page template, which draws them in SVG and HTML.

The lines are SVG in a square of 100 x 100 units, which the page stretches to the space that it has. All
text is HTML at percentages of that square, so its size does not depend on the width of the screen, and its
colours are those of the page.
"""

from collections.abc import Sequence
import math
from typing import Any, NamedTuple

_MOST_POINTS = 400  # of a drawn line; more are averaged in groups of equal size
_LOG_RATIO = 20  # an axis is logarithmic if its largest value is this many times its smallest
_INTERVALS = 5  # between the ticks of an axis, approximately
_FROM_ZERO = 0.4  # a linear axis begins at 0 if smallest / largest value is below this
_MARGIN = 1.25  # factor between the outermost values and the ends of a logarithmic axis

Points = Sequence[tuple[float, float]]


class Guess(NamedTuple):
  """A horizontal line at the value that guessing would have.

  Attributes:
    name: what it is.
    value: in the unit of the chart.
  """

  name: str
  value: float


def chart(
  title: str,
  unit: str,
  lines: dict[str, Points],
  guess: Guess | None = None,
  mark: float | None = None,
  dot: tuple[float, float] | None = None,
) -> dict[str, Any]:
  """Returns the values with which the template draws a chart of values by epoch.

  Args:
    title: what is drawn.
    unit: the unit of the values.
    lines: (epoch, value) of each line by its name, at least one point in each.
    guess: a horizontal line.
    mark: the epoch of a vertical line.
    dot: (epoch, value) of a dot.

  Returns:
    `title`, `unit`, `text` (the lines in words), `is_log`, `lines` (`name` and `path`), `x_ticks` and
    `y_ticks` (`at` and `text`), `guess` (`name` and `at`), `mark` (`at`) and `dot` (`x` and `y`). Positions
    are in per cent, from the left and from the top.
  """
  values = [y for points in lines.values() for _, y in points] + ([guess.value] if guess else [])
  last = max(x for points in lines.values() for x, _ in points) or 1.0
  is_log = min(values) > 0 and max(values) >= _LOG_RATIO * min(values)
  low, high, y_ticks = _log_axis(values) if is_log else _linear_axis(values)

  def across(x: float) -> float:
    return round(100 * x / last, 2)

  def down(y: float) -> float:
    share = math.log(y / low) / math.log(high / low) if is_log else (y - low) / (high - low)
    return round(100 * (1 - share), 2)

  return {
    'title': title,
    'unit': unit,
    'text': _in_words(title, lines, last),
    'is_log': is_log,
    'lines': [
      {'name': name, 'path': _path([(across(x), down(y)) for x, y in _thin(points)])}
      for name, points in lines.items()
    ],
    'x_ticks': [{'at': across(x), 'text': f'{x:g}'} for x in ticks(0, last) if x <= last],
    'y_ticks': [{'at': down(y), 'text': f'{y:g}'} for y in y_ticks],
    'guess': guess and {'name': guess.name, 'at': down(guess.value)},
    'mark': None if mark is None else {'at': min(across(mark), 100)},
    'dot': dot and {'x': across(dot[0]), 'y': down(dot[1])},
  }


def ticks(low: float, high: float) -> list[float]:
  """Returns round numbers at equal distances, the first at most `low`, the last at least `high`.

  There are about `_INTERVALS` intervals; `low` and `high` may be equal.
  """
  span = (high - low) or abs(high) or 1.0
  unit = 10 ** math.floor(math.log10(span / _INTERVALS))
  step = next(unit * k for k in (1, 2, 5, 10) if span / (unit * k) <= _INTERVALS + 1e-9)
  first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
  return [round(step * k, 12) for k in range(first, max(last, first + 1) + 1)]


def _linear_axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
  """Returns the ends of an axis, which are ticks, and its ticks."""
  low, high = min(values), max(values)
  found = ticks(0 if 0 <= low < _FROM_ZERO * high else low, high)
  return found[0], found[-1], found


def _log_axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
  """Returns the ends of a logarithmic axis, and the powers of ten on it.

  On a short axis, 2 and 5 times these are ticks too.
  """
  low, high = min(values) / _MARGIN, max(values) * _MARGIN
  powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
  factors = (1, 2, 5) if high < 300 * low else (1,)
  every = (float(f'{factor}e{power}') for power in powers for factor in factors)
  return low, high, [tick for tick in every if low <= tick <= high]


def _thin(points: Points) -> Points:
  """Averages groups of points, so that a long run does not make a large page."""
  size = -(-len(points) // _MOST_POINTS)
  groups = [points[i : i + size] for i in range(0, len(points), size)]
  return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def _path(points: Points) -> str:
  """Returns the path of a line; a single point becomes a line of no length, which round caps show."""
  points = [*points, *points[: len(points) == 1]]
  return 'M' + 'L'.join(f'{x:g} {y:g}' for x, y in points)


def _in_words(title: str, lines: dict[str, Points], last: float) -> str:
  ends = (
    f'{name} from {points[0][1]:.3g} to {points[-1][1]:.3g}' for name, points in lines.items()
  )
  return f'{title} over {last:.3g} epochs: {"; ".join(ends)}'
