"""Trains one config with several seeds, evaluates each last checkpoint, and writes a file of results.

  python experiments/seeds.py --config=configs/elpv_defect.py --workdir=runs/elpv_defect --seeds=0,1,2 \
      --output=runs/elpv_defect/seeds.json [--jobs=2] [--config.KEY=VALUE ...]

After Ctrl-C or SIGTERM the same command resumes. The latest checkpoint is evaluated: the best one
was selected on the same images, which would bias the error. Paths are relative to the checkout.
"""

import argparse
from collections.abc import Callable, Iterable
import statistics
import sys

import runs as runs_lib

Cell = tuple[str | None, int | None]  # variant of the config, seed; None where there is none


def calls(config: str, workdir: str, seed: int, overrides: list[str]) -> list[list[str]]:
  """Returns the arguments of main.py that train `workdir`/seedN and evaluate its latest checkpoint."""
  runs_lib.refuse(overrides, 'seed')
  argument = f'--workdir={workdir}/seed{seed}'
  train = [f'--config={config}', f'--config.seed={seed}', *overrides, argument]
  return [train, ['--mode=eval', argument, '--checkpoint=latest']]


def spread(runs: list[dict]) -> dict:
  """Returns mean, minimum and maximum of the top-1 errors of the finished runs, and their number."""
  errors = [run['eval']['top1_error'] for run in runs if run['eval']]
  return {
    'mean': statistics.mean(errors) if errors else None,
    'min': min(errors, default=None),
    'max': max(errors, default=None),
    'seeds': len(errors),
  }


def record(cell: Cell, calls: list[list[str]], answers: list[dict]) -> dict:
  """Returns the record of a run from the answers of its successful calls; the last call evaluates."""
  *trainings, evaluation = calls
  trained = answers[len(trainings) - 1] if 0 < len(trainings) <= len(answers) else None
  return {
    'variant': cell[0],
    'seed': cell[1],
    # The checkpoint is left out because it is a path of this machine.
    'train': trained and {key: trained[key] for key in trained if key != 'checkpoint'},
    'eval': answers[-1] if len(answers) == len(calls) else None,
    'command': command(calls),
    'evaluated_by': runs_lib.as_command(evaluation),
  }


def command(calls: list[list[str]]) -> str:
  """Returns the command line that trains a run, or that averages runs."""
  return ' && '.join(map(runs_lib.as_command, calls[:-1] or calls))


def make(
  cells: dict[Cell, list[list[str]]],
  options: argparse.Namespace,
  summarise: Callable[[list[dict]], dict],
  after: Callable[[Cell], Iterable[Cell]] = lambda cell: (),
  draw: Callable[[list[dict]], None] = lambda runs: None,
) -> int:
  """Starts the runs that are left and writes the output after each; returns the exit code.

  Args:
    cells: the calls of main.py for each run: one or more that train and one that evaluates; an average only
      evaluates.
    options: `output` and `jobs`.
    summarise: computes the summary of all runs.
    after: returns the cells that must be finished before a cell starts.
    draw: draws all runs; it is called after the output has been written.

  Raises:
    runs.Refused: the output holds runs of other commands.
  """

  def cell_of(run):
    return (run.get('variant'), run['seed'])

  known = runs_lib.known(
    options.output,
    lambda run: command(cells[cell_of(run)]) if cell_of(run) in cells else '',
    is_result=lambda run: bool(run['train'] and run['eval']),
  )
  runs, on = {cell_of(run): run for run in known}, runs_lib.circumstances()

  def is_made(cell):
    return bool(runs.get(cell, {}).get('eval'))

  if all(map(is_made, cells)):
    print(f'nothing to do: {options.output} has every run', file=sys.stderr)

  def keep(cell, ended):
    time_and_place = runs_lib.gone_on(runs.get(cell, {}), ended.seconds, on)
    runs[cell] = record(cell, cells[cell], ended.answers) | time_and_place
    made = [runs[cell] for cell in cells if cell in runs]
    runs_lib.write(options.output, summarise(made), made)
    draw(made)
    return not ended.code

  def left():
    return [cell for cell in cells if not is_made(cell) and all(map(is_made, after(cell)))]

  return runs_lib.make_all(left, cells.__getitem__, keep, options.jobs)


def main() -> int:
  """Parses the command line, starts the runs and writes the results."""
  options, overrides = runs_lib.parser(
    __doc__, 'config', 'workdir', 'seeds', 'output'
  ).parse_known_args()
  cells = {(None, n): calls(options.config, options.workdir, n, overrides) for n in options.seeds}
  return make(cells, options, lambda runs: {'top1_error': spread(runs)})


if __name__ == '__main__':
  runs_lib.start(main)
