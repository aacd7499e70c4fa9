"""Trains one config with several seeds, evaluates each last checkpoint, and writes a file of results.

  python launch/seeds.py --config=configs/elpv_defect.py --workdir=runs/elpv_defect --seeds=0,1,2 \
      --output=runs/elpv_defect/seeds.json [--jobs=2] [--config.KEY=VALUE ...]

Stopped, by Ctrl-C or SIGTERM, the same command goes on. The last checkpoint is evaluated, not the best,
since the best is chosen on the very images that measure it. Paths are relative to the checkout.
"""

import argparse
from collections.abc import Callable
import statistics
import sys

import runs as runs_lib

Cell = tuple[str, int]  # variant of the config, or none; seed


def calls(config: str, workdir: str, seed: int, overrides: list[str]) -> list[list[str]]:
  """The arguments of main.py to train `workdir`/seedN and to evaluate its last checkpoint."""
  place = f'--workdir={workdir}/seed{seed}'
  train = [f'--config={config}', f'--config.seed={seed}', *overrides, place]
  return [train, ['--mode=eval', place, '--checkpoint=latest']]


def spread(runs: list[dict]) -> dict:
  """Of the top-1 errors of the runs that have been made."""
  errors = [run['eval']['top1_error'] for run in runs if run['eval']]
  return {
    'mean': statistics.mean(errors) if errors else None,
    'min': min(errors, default=None),
    'max': max(errors, default=None),
    'seeds': len(errors),
  }


def make(
  cells: dict[Cell, list[list[str]]],
  options: argparse.Namespace,
  summarise: Callable[[list[dict]], dict],
) -> int:
  """Makes the runs that are left and writes the output after each; returns the exit code.

  Args:
    cells: calls of main.py, to train and to evaluate.
    options: `output` and `jobs`.
    summarise: what the output says of all runs.

  Raises:
    ValueError: the output has runs of other commands.
  """
  command = lambda cell: runs_lib.as_command(cells[cell][0]) if cell in cells else ''
  cell_of = lambda run: (run.get('variant'), run['seed'])
  known = runs_lib.known(options.output, lambda run: command(cell_of(run)))
  runs = {cell_of(run): run for run in known}
  if all(runs.get(cell, {}).get('eval') for cell in cells):
    print(f'nothing to do: {options.output} has every run', file=sys.stderr)
  runner, on, code = runs_lib.Runner(options.jobs), runs_lib.circumstances(), 0
  while True:
    left = [
      cell for cell in cells if not runs.get(cell, {}).get('eval') and cell not in runner.going
    ]
    for cell in left[: runner.free]:
      runner.start(cell, *cells[cell])
    if not runner.going:
      return code
    for cell, ended in runner.wait():
      variant, seed = cell
      trained, evaluated = (*ended.answers, None, None)[:2]
      if trained:
        trained.pop('checkpoint')  # a path of this machine
      runs[cell] = {
        'variant': variant,
        'seed': seed,
        'train': trained,
        'eval': evaluated,
        'seconds': round(runs.get(cell, {}).get('seconds', 0) + ended.seconds),
        'command': command(cell),
        **on,
      }
      made = [runs[cell] for cell in cells if cell in runs]
      runs_lib.write(options.output, summarise(made), made)
      if ended.code:
        code = code or ended.code
        runner.stop()


def main() -> int:
  """Reads the command line, runs, and writes the file."""
  parser = runs_lib.parser(__doc__, 'config', 'workdir', 'seeds', 'output')
  options, overrides = parser.parse_known_args()
  seeds = [int(seed) for seed in options.seeds.split(',')]
  cells = {(None, n): calls(options.config, options.workdir, n, overrides) for n in seeds}
  try:
    return make(cells, options, lambda runs: {'top1_error': spread(runs)})
  except ValueError as error:
    parser.error(str(error))


if __name__ == '__main__':
  sys.exit(main())
