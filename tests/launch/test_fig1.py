"""The sweep of Figure 1: where a curve crosses, what is run next, and what is written of it."""

import importlib.util
import json
import sys

import pytest
from tiny import ROOT

sys.path.insert(0, str(ROOT / 'launch'))
spec = importlib.util.spec_from_file_location('fig1', ROOT / 'launch' / 'fig1.py')
fig1 = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fig1)


@pytest.mark.parametrize(
  ('errors', 'epoch'),
  [
    ([(1.0, 60.0), (2.0, 30.0), (3.0, 20.0)], 2.5),
    ([(1.0, 25.0)], 1.0),
    ([(1.3, 20.0)], 1.3 * 65 / 70),  # from 90 % at the start
    ([(1.0, 24.0), (2.0, 30.0), (3.0, 20.0)], 65 / 66),  # the first time counts
    ([(1.0, 60.0), (2.0, 25.1)], None),
    ([], None),
  ],
)
def test_crossing(errors, epoch):
  assert fig1.crossing(errors) == (epoch if epoch is None else pytest.approx(epoch))


def sweep(epochs, stop_each=0):
  """Runs the whole sweep on `epochs(curve, rate)` (None: never; inf: diverged); returns runs and order.

  With `stop_each`, every run is stopped as often before it ends.
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
      status = 'running'
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
def test_the_best_rate_lies_inside(stop_each):
  """The grid grows to where the best rate lies, then two more seeds run at it alone."""
  best = {'relu': 0.001, 'tanh': 0.008}
  epochs = lambda curve, rate: 10 + 1000 * abs(rate - best[curve])
  runs, order = sweep(epochs, stop_each)
  assert len(order) == len(runs) * (stop_each + 1)
  rates = lambda curve: [rate for name, rate, seed in runs if (name, seed) == (curve, 0)]
  assert rates('relu') == [0.0005, 0.001, 0.002]
  assert rates('tanh') == [0.0005, 0.001, 0.002, 0.004, 0.008, 0.016]
  assert [cell for cell in runs if cell[2]] == [
    (curve, best[curve], seed) for curve in ('relu', 'tanh') for seed in (1, 2)
  ]
  found = fig1.summary(runs, 'tanh')
  assert found['epochs_to_25_percent'] == pytest.approx(10.1) and found['seeds'] == 3
  assert found['spread'] == pytest.approx(0.2)
  assert found['best_is_interior'] and found['learning_rate'] == 0.008


def test_low_rates_and_runs_that_diverge():
  """Halved rates too; a run that diverges bounds the grid, and one that ends lower is better."""
  never = lambda curve, rate: float('inf') if rate > 0.0003 else None
  runs, _ = sweep(never)
  assert sorted(rate for name, rate, seed in runs if (name, seed) == ('relu', 0)) == [
    0.000125, 0.00025, 0.0005, 0.001, 0.002,
  ]  # fmt: skip
  found = fig1.summary(runs, 'relu')
  assert found['learning_rate'] == 0.00025 and found['epochs_to_25_percent'] is None


def test_what_is_written(tmp_path, monkeypatch):
  """Before all runs are made there is no ratio, and the file says what is next; then there is one."""
  monkeypatch.setattr(sys, 'argv', ['fig1.py', '--source=tfds:cifar10'])
  epochs = lambda curve, rate: (5 if curve == 'relu' else 30) + 1000 * abs(rate - 0.001)
  runs, order = sweep(epochs)
  path = tmp_path / 'fig1.json'
  for made in (order[:4], order):
    fig1.write({cell: runs[cell] for cell in made}, path)
    result = json.loads(path.read_text())
    assert len(result['runs']) == len(made)
    assert (tmp_path / 'fig1.png').stat().st_size > 1000
    if made is order:
      assert result['complete'] and 'unfinished' not in result
      assert result['ratio'] == pytest.approx(30.1 / 5.1)
    else:
      assert not result['complete'] and result['ratio'] is None
      assert result['unfinished'] == 'next: tanh, rate 0.001, seed 0'


def test_what_can_run_side_by_side():
  """At first every run of both grids; a curve's other seeds as soon as its own grid is done."""
  first = fig1.next_cells({})
  assert first == [(curve, rate, 0) for curve in fig1.CURVES for rate in fig1.RATES]
  runs, _ = sweep(lambda curve, rate: 10 + 1000 * abs(rate - 0.001))
  begun = {cell: run for cell, run in runs.items() if cell[0] == 'relu' and cell[2] == 0}
  assert fig1.next_cells(begun)[-2:] == [('relu', 0.001, 1), ('relu', 0.001, 2)]
  assert fig1.next_cells(begun)[:3] == [('tanh', rate, 0) for rate in fig1.RATES]


@pytest.mark.parametrize(
  ('code', 'said', 'status'),
  [
    (0, '', 'not within the epochs allowed'),
    (75, 'stopped by SIGTERM', 'running'),
    (3, 'error: the loss is not finite at step 7 (there is no checkpoint yet): ...', 'diverged'),
    (3, 'error: no space left on the disk', 'running'),
    (2, 'error: no such folder', 'running'),
  ],
)
def test_only_a_loss_that_is_not_finite_has_diverged(tmp_path, code, said, status):
  """What failed otherwise is to be done again."""
  found = fig1.record(('relu', 0.001, 0), [f'--workdir={tmp_path}'], fig1.Ended(code, said, 2.0), 1)
  assert found['status'] == status and found['seconds'] == 3


def test_a_cell_is_one_command():
  """Its own folder, and the rate of biases twice that of weights."""
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
