"""The sweep of Figure 1: when a curve reaches 25 %, which runs are next, and what the results contain."""

import importlib.util
import json
import sys

import pytest
from tiny import ROOT

sys.path.insert(0, str(ROOT / 'experiments'))
spec = importlib.util.spec_from_file_location('fig1', ROOT / 'experiments' / 'fig1.py')
fig1 = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fig1)
runs_lib = fig1.runs_lib
INNER_RATES = {'relu': 0.002, 'tanh': 0.004}  # neither is the first or the last rate of its grid


@pytest.mark.parametrize(
  ('errors', 'epoch'),
  [
    ([(1.0, 60.0), (2.0, 30.0), (3.0, 20.0)], 2.5),
    ([(1.0, 25.0)], 1.0),
    ([(1.3, 20.0)], 1.3 * 65 / 70),  # the curve starts at 90 %
    ([(1.0, 24.0), (2.0, 30.0), (3.0, 20.0)], 65 / 66),  # the first crossing counts
    ([(1.0, 60.0), (2.0, 25.1)], None),
    ([], None),
  ],
)
def test_the_crossing_is_interpolated(errors, epoch):
  assert fig1.crossing(errors) == (epoch if epoch is None else pytest.approx(epoch))


def sweep(epochs, stop_each=0):
  """Simulates the whole sweep and returns its runs and the order in which they were started.

  `epochs(curve, rate)` gives the epochs that a run needs to reach 25 %. It returns None for a run that never
  reaches 25 %, and inf for one that diverges. Each run is stopped `stop_each` times before it ends.
  """
  runs, order, stops = {}, [], {}
  while cells := fig1.next_cells(runs):
    cell = cells[0]
    order.append(cell)
    curve, rate, seed = cell
    stops[cell] = stops.get(cell, -1) + 1
    reached = epochs(curve, rate)
    status = {None: 'not within the epochs allowed', float('inf'): 'diverged'}.get(
      reached, 'reached'
    )
    if stops[cell] < stop_each:
      status = 'stopped'
    runs[cell] = {
      'curve': curve,
      'learning_rate': rate,
      'seed': seed,
      'status': status,
      'epochs_to_25_percent': reached + seed / 10 if status == 'reached' else None,
      'training_errors': [] if status == 'diverged' else [(60.0, 30.0 - 1000 * rate)],
      'seconds': 1,
    }
    assert len(order) < 100
  return runs, order


@pytest.mark.parametrize('stop_each', [0, 2])
def test_the_grid_grows_until_the_best_rate_is_inside(stop_each):
  """The grid grows until the best rate is not at its edge; two more seeds then run at that rate only."""
  best = {'relu': 0.002, 'tanh': 0.001}

  def epochs(curve, rate):
    return 10 + 1000 * abs(rate - best[curve])

  runs, order = sweep(epochs, stop_each)
  assert len(order) == len(runs) * (stop_each + 1)

  def rates(curve):
    return [rate for name, rate, seed in runs if (name, seed) == (curve, 0)]

  assert rates('relu') == [0.001, 0.002, 0.004]
  assert sorted(rates('tanh')) == [0.0005, 0.001, 0.002, 0.004, 0.008]
  assert [cell for cell in runs if cell[2]] == [
    (curve, best[curve], seed) for curve in ('relu', 'tanh') for seed in (1, 2)
  ]
  found = fig1.summary(runs, 'tanh')
  assert found['epochs_to_25_percent'] == pytest.approx(10.1) and found['seeds'] == 3
  assert found['spread'] == pytest.approx(0.2)
  assert found['best_is_interior'] and found['learning_rate'] == 0.001


def test_the_grid_grows_downwards_past_diverged_runs():
  """Rates are halved too. Diverged runs bound the grid, and of unfinished runs the lowest error is best."""

  def never(curve, rate):
    return float('inf') if rate > 0.0003 else None

  runs, _ = sweep(never)
  assert sorted(rate for name, rate, seed in runs if (name, seed) == ('relu', 0)) == [
    0.000125, 0.00025, 0.0005, 0.001, 0.002, 0.004,
  ]  # fmt: skip
  found = fig1.summary(runs, 'relu')
  assert found['learning_rate'] == 0.00025 and found['epochs_to_25_percent'] is None


def written(runs, path):
  """Returns the content of the result file that `fig1.write` writes for `runs`."""
  fig1.write(runs, str(path))
  assert path.with_suffix('.png').stat().st_size > 1000
  return json.loads(path.read_text())


def test_the_result_file_has_a_ratio_when_all_runs_are_complete(tmp_path):
  """Until then, the file names the next run and has no ratio."""

  def epochs(curve, rate):
    return (5 if curve == 'relu' else 30) + 1000 * abs(rate - INNER_RATES[curve])

  runs, order = sweep(epochs)
  partial = written({cell: runs[cell] for cell in order[:4]}, tmp_path / 'fig1.json')
  assert len(partial['runs']) == 4 and not partial['complete'] and 'ratio' not in partial
  assert partial['unfinished'] == 'next: tanh, rate 0.004, seed 0'
  whole = written(runs, tmp_path / 'fig1.json')
  assert whole['complete'] and 'unfinished' not in whole
  assert whole['ratio'] == pytest.approx(30.1 / 5.1) and whole['ratio_at_least'] is None


def test_a_curve_that_does_not_reach_25_percent(tmp_path):
  """The result is more than 60 epochs, because a mean over the successful seeds would be biased."""

  def epochs(curve, rate):
    if curve == 'relu':
      return 5 + 1000 * abs(rate - INNER_RATES['relu'])
    return float('inf') if rate > 0.01 else None

  runs, _ = sweep(epochs)
  found = written(runs, tmp_path / 'fig1.json')
  assert found['tanh']['epochs_to_25_percent'] is None and found['tanh']['more_than'] == 60.0
  assert found['ratio'] is None and found['ratio_at_least'] == pytest.approx(60 / 5.1)
  runs['relu', INNER_RATES['relu'], 2] |= {'status': fig1.NOT_REACHED, 'epochs_to_25_percent': None}
  one_slow = fig1.summary(runs, 'relu')
  assert one_slow['epochs_to_25_percent'] is None and one_slow['more_than'] == 60.0
  assert one_slow['max'] == pytest.approx(5.1) and one_slow['seeds'] == 3
  # The mean is at least that of the two seeds that reached the target and of 60 epochs.
  assert one_slow['at_least'] == pytest.approx((5.0 + 5.1 + 60) / 3)


def test_runs_that_may_run_at_the_same_time():
  """These are first all runs of both grids, and the other seeds of a curve when its own grid is complete."""
  first = fig1.next_cells({})
  assert first == [(curve, rate, 0) for curve in fig1.CURVES for rate in fig1.RATES[curve]]
  runs, _ = sweep(lambda curve, rate: 10 + 1000 * abs(rate - INNER_RATES[curve]))
  partial = {cell: run for cell, run in runs.items() if cell[0] == 'relu' and cell[2] == 0}
  assert fig1.next_cells(partial)[-2:] == [('relu', INNER_RATES['relu'], seed) for seed in (1, 2)]
  assert fig1.next_cells(partial)[:3] == [('tanh', rate, 0) for rate in fig1.RATES['tanh']]


@pytest.mark.parametrize(
  ('code', 'last_line', 'status'),
  [
    (0, '', 'not within the epochs allowed'),
    (75, 'stopped by SIGTERM', 'stopped'),
    (3, 'error: the loss is not finite at step 7 (there is no checkpoint yet): ...', 'diverged'),
    (3, 'error: no space left on the disk', 'stopped'),
    (2, 'error: no such folder', 'stopped'),
  ],
)
def test_only_a_non_finite_loss_counts_as_diverged(tmp_path, code, last_line, status):
  """A run that failed for another reason is repeated. An incomplete line of metrics.jsonl is ignored."""
  row = '{"epoch": 1.0, "train_set/top1_error": 60.0}\n'
  (tmp_path / 'metrics.jsonl').write_text(row + row[:20])
  ended = runs_lib.Ended(code, last_line, [], 2.0)
  found = fig1.record(('relu', 0.001, 0), [f'--workdir={tmp_path}'], ended)
  assert found['status'] == status
  assert found['training_errors'] == [(1.0, 60.0)]


def test_a_cell_is_one_command():
  """The command names a folder for this run, and the rate of biases is twice that of weights."""
  arguments = fig1.command(('tanh', 0.0005, 2), 'tfds:cifar10', 'runs/fig1', ['--config.x=1'])
  assert arguments == [
    '--config=configs/cifar10.py:tanh',
    '--config.data.source=tfds:cifar10',
    '--config.optim.rate=0.0005',
    '--config.optim.bias_rate=0.001',
    '--config.seed=2',
    '--config.x=1',
    '--workdir=runs/fig1/tanh-rate0.0005-seed2',
  ]
