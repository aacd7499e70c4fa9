"""Figure 1 of the paper: the epochs to 25 % training error with ReLU and with tanh.

  python experiments/fig1.py --source=tfds:cifar10 --workdir=runs/fig1 --output=runs/fig1/fig1.json
  python experiments/fig1.py --source=folder:PATH ...

Trains configs/cifar10.py:relu with the rates 0.001, 0.002 and 0.004, and :tanh with 0.002, 0.004
and 0.008, with seed 0, until the error on all training images falls to 25 %, for at most 60 epochs.
If the best rate of a curve is the lowest or the highest, half or twice that rate is tried too.
Seeds 1 and 2 follow at the best rate. The output holds every run; the picture is written beside it
as .png and states whether the experiment is unfinished. After Ctrl-C or SIGTERM the same command
resumes. `--jobs=2` starts two runs at a time, and `--config.KEY=VALUE` goes to every run. Paths are
relative to the checkout. To repeat a single run, use its recorded command with another `--workdir`.
"""

import itertools
import json
import math
import pathlib
import statistics
import sys

import runs as runs_lib
from runs import ROOT, Ended

RATES = {'relu': (0.001, 0.002, 0.004), 'tanh': (0.002, 0.004, 0.008)}  # the first grid
CURVES = tuple(RATES)
SEEDS = (0, 1, 2)
TARGET = 25.0  # per cent of the training images
START = (0.0, 90.0)  # epoch, error in per cent: guessing one of ten classes
RUN_FAILED = 3  # main.py's exit code
NOT_REACHED = 'not within the epochs allowed'

Cell = tuple[str, float, int]  # curve, rate of weights, seed


def status_of(ended: Ended, reached: float | None) -> str:
  """Returns the status of a run: reached, not within the epochs allowed, diverged or stopped."""
  if ended.code == RUN_FAILED and 'the loss is not finite' in ended.said:
    return 'diverged'
  if ended.code:
    return 'stopped'  # to be resumed
  return NOT_REACHED if reached is None else 'reached'


def crossing(errors: list[tuple[float, float]]) -> float | None:
  """Returns the interpolated epoch at which the error first falls to `TARGET`; None if it never does.

  `errors`: (epoch, error in per cent), in order, without epoch 0.
  """
  before = START
  for now in errors:
    if now[1] <= TARGET:
      return before[0] + (before[1] - TARGET) / (before[1] - now[1]) * (now[0] - before[0])
    before = now
  return None


def rank(run: dict) -> tuple[float, float]:
  """Returns a sort key: the epochs to the target, then the last error; lower is better."""
  reached = run['epochs_to_25_percent']
  last = run['training_errors'][-1][1] if run['training_errors'] else math.inf
  diverged = run['status'] == 'diverged'
  return (math.inf if reached is None else reached, math.inf if diverged else last)


def best_rate(runs: dict[Cell, dict], curve: str) -> float | None:
  """Returns the best rate of the first seed, the lowest of equals; None without a finished run."""
  finished = {
    rate: run
    for (name, rate, seed), run in runs.items()
    if (name, seed) == (curve, SEEDS[0]) and run['status'] != 'stopped'
  }
  return min(finished, key=lambda rate: (*rank(finished[rate]), rate), default=None)


def left_of_grid(runs: dict[Cell, dict], curve: str) -> list[Cell]:
  """Returns the runs of the first seed that a curve still needs; none if the best rate is inside."""
  tried = [rate for name, rate, seed in runs if (name, seed) == (curve, SEEDS[0])]
  rates = sorted({*RATES[curve], *tried})
  if left := [rate for rate in rates if not is_done(runs, (curve, rate, SEEDS[0]))]:
    return [(curve, rate, SEEDS[0]) for rate in left]
  best = best_rate(runs, curve)
  beyond = {rates[0]: rates[0] / 2, rates[-1]: rates[-1] * 2}.get(best)
  return [] if beyond is None else [(curve, beyond, SEEDS[0])]


def is_done(runs: dict[Cell, dict], cell: Cell) -> bool:
  """Returns whether a run has ended, successfully or not."""
  return cell in runs and runs[cell]['status'] != 'stopped'


def next_cells(runs: dict[Cell, dict]) -> list[Cell]:
  """Returns the runs to start or resume, the most urgent first; none when all are finished."""
  grids = {curve: left_of_grid(runs, curve) for curve in CURVES}
  settled = [(curve, best_rate(runs, curve)) for curve in CURVES if not grids[curve]]
  more = [(curve, rate, seed) for curve, rate in settled for seed in SEEDS[1:]]
  return [*itertools.chain(*grids.values()), *(cell for cell in more if not is_done(runs, cell))]


def command(cell: Cell, source: str, workdir: str, overrides: list[str]) -> list[str]:
  """Returns the arguments of main.py for a cell; biases have twice the rate of weights."""
  runs_lib.refuse(overrides, 'data.source', 'optim.rate', 'optim.bias_rate', 'seed')
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


def read_errors(workdir: pathlib.Path) -> list[tuple[float, float]]:
  """Returns (epoch, error on all training images in per cent) for each evaluation of a run so far."""
  path = workdir / 'metrics.jsonl'
  lines = path.read_text().splitlines(keepends=True) if path.exists() else []
  # A killed run may leave an incomplete last line.
  rows = [json.loads(line) for line in lines if line.endswith('\n')]
  key = 'train_set/top1_error'
  return [(row['epoch'], row[key]) for row in rows if key in row]


def record(cell: Cell, arguments: list[str], ended: Ended) -> dict:
  """Returns the record of a run after main.py ended."""
  errors = read_errors(ROOT / arguments[-1].removeprefix('--workdir='))
  reached = crossing(errors)
  curve, rate, seed = cell
  return {
    'curve': curve,
    'learning_rate': rate,
    'seed': seed,
    'status': status_of(ended, reached),
    'epochs_to_25_percent': reached,
    'training_errors': errors,
    'command': runs_lib.as_command(arguments),
  }


def summary(runs: dict[Cell, dict], curve: str) -> dict:
  """Returns the best rate of a curve so far and the epochs of the seeds at that rate.

  `spread` is the difference of the slowest and the fastest seed, None for one seed. If a seed did
  not reach the target there is no mean, because it would leave out the slowest; `more_than` is
  then the number of epochs for which that seed was trained, and `at_least` a lower bound of the mean.
  """
  rate = best_rate(runs, curve)
  at_best = [run for (name, r, _), run in runs.items() if (name, r) == (curve, rate)]
  reached = [run['epochs_to_25_percent'] for run in at_best if run['status'] == 'reached']
  short = [run['training_errors'][-1][0] for run in at_best if run['status'] == NOT_REACHED]
  tried = sorted({cell[1] for cell in runs if cell[0] == curve and is_done(runs, cell)})
  return {
    'epochs_to_25_percent': statistics.mean(reached) if reached and not short else None,
    'more_than': min(short, default=None),
    'at_least': statistics.mean([*reached, *short]) if short else None,
    'min': min(reached, default=None),
    'max': max(reached, default=None),
    'spread': max(reached) - min(reached) if len(reached) > 1 else None,
    'seeds': len(reached) + len(short),
    'learning_rate': rate,
    'learning_rates_tried': tried,
    'best_is_interior': bool(tried) and rate not in (None, tried[0], tried[-1]),
  }


def ratio(relu: dict, tanh: dict) -> dict:
  """Returns the ratio of the epochs of tanh and ReLU, or a lower bound of it, from two summaries."""
  sooner = relu['epochs_to_25_percent']
  later, more = tanh['epochs_to_25_percent'], tanh['at_least']
  return {
    'ratio': later / sooner if sooner and later else None,
    'ratio_at_least': more / sooner if sooner and more else None,
  }


def write(runs: dict[Cell, dict], output: str) -> None:
  """Writes the output and the picture of the runs so far."""
  curves = {curve: summary(runs, curve) for curve in CURVES}
  left = next_cells(runs)
  known = {'unfinished': f'next: {_name(left[0])}'} if left else ratio(**curves)
  runs_lib.write(output, {'complete': not left, **known, **curves}, list(runs.values()))
  draw(runs, (ROOT / output).with_suffix('.png'), not left)


def _name(cell: Cell) -> str:
  return f'{cell[0]}, rate {cell[1]:g}, seed {cell[2]}'


def draw(runs: dict[Cell, dict], path: pathlib.Path, complete: bool) -> None:
  """Draws the training error by epoch, as in the paper: a solid line for ReLU, a dashed line for tanh."""
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
  axes.set_title('' if complete else 'unfinished: some runs are missing', fontsize=9)
  if axes.get_legend_handles_labels()[0]:
    axes.legend(frameon=False)
  figure.savefig(path, dpi=120)
  pyplot.close(figure)


def main() -> int:
  """Parses the command line, starts the runs that are left, and writes the output after every run."""
  options, overrides = runs_lib.parser(__doc__, 'source', 'workdir', 'output').parse_known_args()

  def arguments(cell):
    return command(cell, options.source, options.workdir, overrides)

  def cell_of(run):
    return (run['curve'], run['learning_rate'], run['seed'])

  known = runs_lib.known(
    options.output,
    lambda run: runs_lib.as_command(arguments(cell_of(run))),
    is_result=lambda run: run['status'] != 'stopped',
  )
  runs, on = {cell_of(run): run for run in known}, runs_lib.circumstances()
  if not next_cells(runs):
    print(f'nothing to do: {options.output} has every run', file=sys.stderr)

  def keep(cell, ended):
    time_and_place = runs_lib.gone_on(runs.get(cell, {}), ended.seconds, on)
    runs[cell] = record(cell, arguments(cell), ended) | time_and_place
    write(runs, options.output)
    return runs[cell]['status'] != 'stopped'

  code = runs_lib.make_all(
    lambda: next_cells(runs), lambda cell: [arguments(cell)], keep, options.jobs
  )
  write(runs, options.output)
  return code


if __name__ == '__main__':
  runs_lib.start(main)
