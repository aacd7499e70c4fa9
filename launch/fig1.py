"""Figure 1 of the paper: how much sooner a network of ReLUs reaches 25 % training error than one of tanhs.

  python launch/fig1.py --source=tfds:cifar10 --workdir=runs/fig1 --output=results/fig1.json
  python launch/fig1.py --source=folder:PATH ...

Trains configs/cifar10.py:relu and :tanh with the rates 0.0005, 0.001 and 0.002 and seed 0 until the error
over all training images is down to 25 %, 60 epochs at most; where the best rate of a curve is the lowest or
the highest, with half of it or twice as much, too; then with seeds 1 and 2 at the best rate. Stopped, by
Ctrl-C or SIGTERM, the same command goes on. Every run is in the output, and beside it, as .png, the picture;
an unfinished sweep says so there. `--config.KEY=VALUE` is handed to every run.
"""

import argparse
import json
import math
import pathlib
import shlex
import signal
import statistics
import subprocess
import sys
import time

import seeds
from seeds import ROOT

CURVES = ('relu', 'tanh')
RATES = (0.0005, 0.001, 0.002)
SEEDS = (0, 1, 2)
TARGET = 25.0  # per cent of the training images
START = (0.0, 90.0)  # epoch, error in per cent: guessing one of ten classes
PREEMPTED, RUN_FAILED = 75, 3

Cell = tuple[str, float, int]  # curve, rate of weights, seed


def crossing(errors: list[tuple[float, float]]) -> float | None:
  """The epoch at which the error first comes down to `TARGET`, interpolated; None if it does not.

  `errors`: (epoch, error in per cent), in order, without epoch 0.
  """
  before = START
  for now in errors:
    if now[1] <= TARGET:
      return before[0] + (before[1] - TARGET) / (before[1] - now[1]) * (now[0] - before[0])
    before = now
  return None


def rank(run: dict) -> tuple[float, float]:
  """What makes a run better than another: it gets there sooner, else it ends lower."""
  reached = run['epochs_to_25_percent']
  last = run['training_errors'][-1][1] if run['training_errors'] else math.inf
  diverged = run['status'] == 'diverged'
  return (math.inf if reached is None else reached, math.inf if diverged else last)


def best_rate(runs: dict[Cell, dict], curve: str) -> float | None:
  """The rate that did best with the first seed; None without a finished run."""
  finished = {
    rate: run
    for (name, rate, seed), run in runs.items()
    if (name, seed) == (curve, SEEDS[0]) and run['status'] != 'running'
  }
  return min(finished, key=lambda rate: rank(finished[rate]), default=None)


def next_cell(runs: dict[Cell, dict]) -> Cell | None:
  """What to run next, or go on with; None when all is done."""
  todo = lambda cell: cell not in runs or runs[cell]['status'] == 'running'
  for curve in CURVES:
    for rate in RATES:
      if todo((curve, rate, SEEDS[0])):
        return curve, rate, SEEDS[0]
    best = best_rate(runs, curve)
    tried = [rate for name, rate, seed in runs if (name, seed) == (curve, SEEDS[0])]
    if best == min(tried):
      return curve, best / 2, SEEDS[0]
    if best == max(tried):
      return curve, best * 2, SEEDS[0]
    if todo((curve, max(tried), SEEDS[0])) or todo((curve, min(tried), SEEDS[0])):
      return next((curve, rate, SEEDS[0]) for rate in tried if todo((curve, rate, SEEDS[0])))
  for curve in CURVES:
    for seed in SEEDS[1:]:
      cell = curve, best_rate(runs, curve), seed
      if todo(cell):
        return cell
  return None


def command(cell: Cell, source: str, workdir: str, overrides: list[str]) -> list[str]:
  """The arguments of main.py for a cell; the rate of biases is twice that of weights."""
  curve, rate, seed = cell
  return [
    f'--config=configs/cifar10.py:{curve}',
    f'--config.data.source={source}',
    f'--config.optim.rate={rate:g}',
    f'--config.optim.bias_rate={2 * rate:g}',
    f'--config.seed={seed}',
    *overrides,
    f'--workdir={workdir}/{curve}-rate{rate:g}-seed{seed}',
  ]


def run(arguments: list[str]) -> int:
  """Runs main.py to its end; a signal to this program is handed down. Returns the exit code."""
  process = subprocess.Popen(
    [sys.executable, 'main.py', *arguments], cwd=ROOT, stdout=subprocess.DEVNULL
  )
  hand_down = lambda *_: process.send_signal(signal.SIGTERM)
  before = {which: signal.signal(which, hand_down) for which in (signal.SIGTERM, signal.SIGINT)}
  try:
    return process.wait()
  finally:
    for which, handler in before.items():
      signal.signal(which, handler)


def read_errors(workdir: pathlib.Path) -> list[tuple[float, float]]:
  """(epoch, error over all training images in per cent) of each evaluation of a run, so far."""
  path = workdir / 'metrics.jsonl'
  rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
  key = 'train_set/top1_error'
  return [(row['epoch'], row[key]) for row in rows if key in row]


def record(cell: Cell, arguments: list[str], code: int | None, seconds: float) -> dict:
  """What is known of a run after main.py ended with `code` (None: it has not run here)."""
  errors = read_errors(ROOT / arguments[-1].removeprefix('--workdir='))
  reached = crossing(errors)
  ended = 'reached' if reached is not None else 'not within the epochs allowed'
  status = {0: ended, RUN_FAILED: 'diverged'}.get(code, 'running')
  curve, rate, seed = cell
  return {
    'curve': curve,
    'learning_rate': rate,
    'seed': seed,
    'status': status,
    'epochs_to_25_percent': reached,
    'training_errors': errors,
    'seconds': round(seconds),
    'command': shlex.join(['python', 'main.py', *arguments]),
  }


def summary(runs: dict[Cell, dict], curve: str) -> dict:
  """One curve: its best rate so far, and what the seeds at that rate gave."""
  rate = best_rate(runs, curve)
  at_best = [run for (name, r, _), run in runs.items() if (name, r) == (curve, rate)]
  reached = [run['epochs_to_25_percent'] for run in at_best if run['status'] == 'reached']
  tried = sorted({r for name, r, _ in runs if name == curve})
  return {
    'epochs_to_25_percent': statistics.mean(reached) if reached else None,
    'min': min(reached, default=None),
    'max': max(reached, default=None),
    'seeds': len(reached),
    'learning_rate': rate,
    'learning_rates_tried': tried,
    'best_is_interior': bool(tried) and rate not in (None, tried[0], tried[-1]),
  }


def write(runs: dict[Cell, dict], output: pathlib.Path) -> None:
  """Writes the output and the picture of what is known so far."""
  curves = {curve: summary(runs, curve) for curve in CURVES}
  relu, tanh = (curves[curve]['epochs_to_25_percent'] for curve in CURVES)
  left = next_cell(runs)
  result = {
    'complete': left is None,
    **(
      {} if left is None else {'unfinished': f'next: {left[0]}, rate {left[1]:g}, seed {left[2]}'}
    ),
    **curves,
    'ratio': tanh / relu if relu and tanh and left is None else None,
    **seeds.circumstances(),
    'runs': list(runs.values()),
  }
  seeds.write(output, result)
  draw(runs, output.with_suffix('.png'), left is None)


def draw(runs: dict[Cell, dict], path: pathlib.Path, complete: bool) -> None:
  """The paper's picture: training error by epoch, ReLU a solid line, tanh a dashed one."""
  import matplotlib

  matplotlib.use('agg')
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(figsize=(5, 4), layout='constrained')
  for curve, style in zip(CURVES, ('-', '--'), strict=True):
    best = best_rate(runs, curve)
    for (name, rate, _), one in runs.items():
      if name == curve:
        points = [START, *one['training_errors']]
        axes.plot(
          *zip(*points, strict=True),
          style,
          color='black',
          alpha=1.0 if rate == best else 0.2,
          label=f'{curve}, rate {rate:g}' if (rate, one['seed']) == (best, SEEDS[0]) else None,
        )
  axes.axhline(TARGET, color='gray', linewidth=0.8)
  axes.set(xlabel='epochs', ylabel='training error, %', ylim=(0, 95), xlim=(0, None))
  axes.set_title('' if complete else 'unfinished: not all runs have been made', fontsize=9)
  if axes.get_legend_handles_labels()[0]:
    axes.legend(frameon=False)
  figure.savefig(path, dpi=120)
  pyplot.close(figure)


def main() -> int:
  """Reads the command line, runs what is left, and writes the output after every run."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  for name in ('source', 'workdir', 'output'):
    parser.add_argument(f'--{name}', required=True)
  options, overrides = parser.parse_known_args()
  output = ROOT / options.output
  known = json.loads(output.read_text())['runs'] if output.exists() else []
  runs = {(run['curve'], run['learning_rate'], run['seed']): run for run in known}
  while cell := next_cell(runs):
    arguments = command(cell, options.source, options.workdir, overrides)
    began, before = time.monotonic(), runs.get(cell, {}).get('seconds', 0)
    print('python main.py', shlex.join(arguments), file=sys.stderr)
    code = run(arguments)
    if code in (0, RUN_FAILED, PREEMPTED):
      runs[cell] = record(cell, arguments, code, before + time.monotonic() - began)
      write(runs, output)
    if code not in (0, RUN_FAILED):
      return code
  return 0


if __name__ == '__main__':
  sys.exit(main())
