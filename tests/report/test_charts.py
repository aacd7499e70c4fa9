"""Charts place values correctly on linear and logarithmic axes."""

import pytest

from alexnet_jax.report import charts


@pytest.mark.parametrize(
  ('low', 'high', 'expected'),
  [
    (0, 100, [0, 20, 40, 60, 80, 100]),
    (0.62, 0.697, [0.62, 0.64, 0.66, 0.68, 0.7]),
    (0, 3, [0, 1, 2, 3]),
    (5, 5, [5, 6]),
    (0, 0, [0, 0.2]),
  ],
)
def test_ticks_are_round_and_enclose_the_values(low, high, expected):
  assert charts.ticks(low, high) == pytest.approx(expected)


def test_a_linear_chart():
  """The axis goes from tick to tick. Positions are from the left and from the top."""
  guess = charts.Guess('guessing', 50.0)
  lines = {'training': [(0, 50.0), (5, 30.0), (10, 20.0)]}
  found = charts.chart('Error', '%', lines, guess, mark=5, dot=(10, 20.0))
  assert [tick['text'] for tick in found['y_ticks']] == ['20', '30', '40', '50']
  assert found['lines'] == [{'name': 'training', 'path': 'M0 0L50 66.67L100 100'}]
  assert found['guess'] == {'name': 'guessing', 'at': 0}
  assert found['mark'] == {'at': 50} and found['dot'] == {'x': 100, 'y': 100}
  assert found['text'] == 'Error over 10 epochs: training from 50 to 20' and not found['is_log']


def test_a_large_range_is_logarithmic_and_zero_is_not():
  """Equal ratios are equal distances. A value of 0 needs a linear axis."""
  found = charts.chart('Loss', 'nats', {'training': [(1, 1.0), (2, 0.1), (3, 0.01)]})
  first, middle, last = (float(at.split()[1]) for at in found['lines'][0]['path'][1:].split('L'))
  assert found['is_log'] and middle - first == pytest.approx(last - middle, abs=0.02)
  assert {'1', '0.1', '0.01'} <= {tick['text'] for tick in found['y_ticks']}
  assert all(0 <= tick['at'] <= 100 for tick in found['y_ticks'])
  assert not charts.chart('Error', '%', {'training': [(1, 90.0), (2, 0.0)]})['is_log']


def test_long_lines_are_averaged_and_a_single_point_is_drawn():
  """A long run does not make a large page."""
  long = charts.chart('Loss', 'nats', {'training': [(k, k % 2 + 1) for k in range(1, 100_001)]})
  heights = {float(at.split()[1]) for at in long['lines'][0]['path'][1:].split('L')}
  assert len(long['lines'][0]['path']) < 10_000 and heights == {50}
  single = charts.chart('Loss', 'nats', {'training': [(2, 1.0)]})
  assert single['lines'][0]['path'] == 'M100 100L100 100'
