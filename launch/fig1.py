"""Figure 1 of the paper: how much sooner a network of ReLUs reaches 25 % training error than one of tanhs.

  python launch/fig1.py --source=tfds:cifar10 --workdir=runs/fig1 --output=results/fig1.json
  python launch/fig1.py --source=folder:PATH ...

Trains configs/cifar10.py:relu and :tanh with the rates 0.0005, 0.001 and 0.002 and seed 0 until the error
over all training images is down to 25 %, 60 epochs at most; where the best rate of a curve is the lowest or
the highest, with half of it or twice as much, too; then with seeds 1 and 2 at the best rate. Stopped, by
Ctrl-C or SIGTERM, the same command goes on. Every run is in the output, and beside it, as .png, the picture;
an unfinished sweep says so there. `--jobs=2` makes two runs at a time; `--config.KEY=VALUE` goes to every
run.
"""

import argparse
import concurrent.futures
import itertools
import json
import math
import pathlib
import shlex
import signal
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

import seeds
from seeds import ROOT

CURVES = ('relu', 'tanh')
RATES = (0.0005, 0.001, 0.002)
SEEDS = (0, 1, 2)
TARGET = 25.0  # per cent of the training images
START = (0.0, 90.0)  # epoch, error in per cent: guessing one of ten classes
RUN_FAILED = 3  # main.py's exit code

Cell = tuple[str, float, int]  # curve, rate of weights, seed


class Ended(NamedTuple):
  """How main.py ended: exit code, last line of its log, seconds it took."""

  code: int
  said: str
  seconds: float

  @property
  def status(self) -> str:
    """What became of the run, but for whether it reached the target: diverged, ended, running."""
    if self.code == RUN_FAILED and 'the loss is not finite' in self.said:
      return 'diverged'
    return 'ended' if self.code == 0 else 'running'


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


def left_of_grid(runs: dict[Cell, dict], curve: str) -> list[Cell]:
  """The runs with the first seed that a curve still needs; none once its best rate lies inside."""
  tried = [rate for name, rate, seed in runs if (name, seed) == (curve, SEEDS[0])]
  rates = sorted({*RATES, *tried})
  if left := [rate for rate in rates if not is_done(runs, (curve, rate, SEEDS[0]))]:
    return [(curve, rate, SEEDS[0]) for rate in left]
  best = best_rate(runs, curve)
  beyond = {rates[0]: rates[0] / 2, rates[-1]: rates[-1] * 2}.get(best)
  return [] if beyond is None else [(curve, beyond, SEEDS[0])]


def is_done(runs: dict[Cell, dict], cell: Cell) -> bool:
  """Whether a run has ended, well or not."""
  return cell in runs and runs[cell]['status'] != 'running'


def next_cells(runs: dict[Cell, dict]) -> list[Cell]:
  """What can be run next, or gone on with, the most urgent first; nothing when all is done."""
  grids = {curve: left_of_grid(runs, curve) for curve in CURVES}
  settled = [(curve, best_rate(runs, curve)) for curve in CURVES if not grids[curve]]
  more = [(curve, rate, seed) for curve, rate in settled for seed in SEEDS[1:]]
  return [*itertools.chain(*grids.values()), *(cell for cell in more if not is_done(runs, cell))]


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


class Runs:
  """The runs that are being made, each a process of its own; a signal to this program is handed down."""

  def __init__(self, most: int):
    self.cells: dict[concurrent.futures.Future, tuple[Cell, list[str]]] = {}
    self.most, self._pool = most, concurrent.futures.ThreadPoolExecutor(most)
    self._processes: set[subprocess.Popen] = set()
    self.stopping = False
    for which in (signal.SIGTERM, signal.SIGINT):
      signal.signal(which, lambda *_: self.stop())

  def stop(self) -> None:
    """Has all of them write a checkpoint and end; starts no other."""
    self.stopping = True
    for process in list(self._processes):
      process.send_signal(signal.SIGTERM)

  def start(self, cell: Cell, arguments: list[str]) -> None:
    """Begins, or goes on with, the run of a cell."""
    print('python main.py', shlex.join(arguments), file=sys.stderr)
    self.cells[self._pool.submit(self._run, arguments)] = cell, arguments

  def wait(self) -> list[tuple[Cell, list[str], Ended]]:
    """Waits until one or more have ended."""
    done = concurrent.futures.wait(self.cells, return_when='FIRST_COMPLETED').done
    return [(*self.cells.pop(future), future.result()) for future in done]

  def _run(self, arguments: list[str]) -> Ended:
    began, last = time.monotonic(), ''
    with subprocess.Popen(
      [sys.executable, 'main.py', *arguments],
      cwd=ROOT,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      start_new_session=True,  # Ctrl-C reaches it once, from here
      text=True,
    ) as process:
      self._processes.add(process)
      if self.stopping:
        process.send_signal(signal.SIGTERM)
      name = f'{pathlib.Path(arguments[-1]).name}: ' if self.most > 1 else ''
      for line in process.stderr or ():
        print(f'{name}{line}', end='', file=sys.stderr, flush=True)
        last = line
    self._processes.discard(process)
    return Ended(process.returncode, last, time.monotonic() - began)


def read_errors(workdir: pathlib.Path) -> list[tuple[float, float]]:
  """(epoch, error over all training images in per cent) of each evaluation of a run, so far."""
  path = workdir / 'metrics.jsonl'
  rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
  key = 'train_set/top1_error'
  return [(row['epoch'], row[key]) for row in rows if key in row]


def record(cell: Cell, arguments: list[str], how: Ended, seconds: float) -> dict:
  """What is known of a run after main.py ended; `seconds` went by before."""
  errors = read_errors(ROOT / arguments[-1].removeprefix('--workdir='))
  reached = crossing(errors)
  status = how.status
  if status == 'ended':
    status = 'reached' if reached is not None else 'not within the epochs allowed'
  curve, rate, seed = cell
  return {
    'curve': curve,
    'learning_rate': rate,
    'seed': seed,
    'status': status,
    'epochs_to_25_percent': reached,
    'training_errors': errors,
    'seconds': round(seconds + how.seconds),
    'command': shlex.join(['python', 'main.py', *arguments]),
  }


def summary(runs: dict[Cell, dict], curve: str) -> dict:
  """One curve: its best rate so far, and what the seeds at that rate gave, in epochs.

  `spread` is how far the seeds lie apart; a run made again on other hardware differs by such an amount.
  """
  rate = best_rate(runs, curve)
  at_best = [run for (name, r, _), run in runs.items() if (name, r) == (curve, rate)]
  reached = [run['epochs_to_25_percent'] for run in at_best if run['status'] == 'reached']
  tried = sorted({r for name, r, _ in runs if name == curve})
  return {
    'epochs_to_25_percent': statistics.mean(reached) if reached else None,
    'min': min(reached, default=None),
    'max': max(reached, default=None),
    'spread': max(reached) - min(reached) if reached else None,
    'seeds': len(reached),
    'learning_rate': rate,
    'learning_rates_tried': tried,
    'best_is_interior': bool(tried) and rate not in (None, tried[0], tried[-1]),
  }


def write(runs: dict[Cell, dict], output: pathlib.Path) -> None:
  """Writes the output and the picture of what is known so far."""
  curves = {curve: summary(runs, curve) for curve in CURVES}
  relu, tanh = (curves[curve]['epochs_to_25_percent'] for curve in CURVES)
  left = next_cells(runs)
  result = {
    'complete': not left,
    **({'unfinished': f'next: {_name(left[0])}'} if left else {}),
    **curves,
    'ratio': tanh / relu if relu and tanh and not left else None,
    **seeds.circumstances(),
    'runs': list(runs.values()),
  }
  seeds.write(output, result)
  draw(runs, output.with_suffix('.png'), not left)


def _name(cell: Cell) -> str:
  return f'{cell[0]}, rate {cell[1]:g}, seed {cell[2]}'


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
  """Reads the command line, runs what is left, and writes the output after every run and at the end."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  for name in ('source', 'workdir', 'output'):
    parser.add_argument(f'--{name}', required=True)
  parser.add_argument('--jobs', type=int, default=1, help='runs at a time')
  options, overrides = parser.parse_known_args()
  output = ROOT / options.output
  known = json.loads(output.read_text())['runs'] if output.exists() else []
  runs = {(run['curve'], run['learning_rate'], run['seed']): run for run in known}
  going, code = Runs(options.jobs), 0
  while True:
    busy = [cell for cell, _ in going.cells.values()]
    free = [cell for cell in next_cells(runs) if cell not in busy]
    for cell in free[: 0 if going.stopping else options.jobs - len(busy)]:
      going.start(cell, command(cell, options.source, options.workdir, overrides))
    if not going.cells:
      write(runs, output)
      return code
    for cell, arguments, how in going.wait():
      runs[cell] = record(cell, arguments, how, runs.get(cell, {}).get('seconds', 0))
      write(runs, output)
      if how.status == 'running':
        code = code or how.code
        going.stop()


if __name__ == '__main__':
  sys.exit(main())
