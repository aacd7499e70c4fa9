"""Runs the fault campaign: `python -m tests.faults --rounds=200 --seed=0`; `--controls` runs the controls.

If the file --output already contains rounds with the same seed, kinds and code, they are not repeated.
--budget=SECONDS stops the campaign early, and the same command continues it.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

from benchmarks.gpu import plan

from . import controls, scenarios
from . import harness as harness_lib

COLUMNS = ('fault', 'rounds', 'survived', 'reported', 'median s', 'longest s', 'processor s')


class UsageError(Exception):
  """The options do not fit the output file. The message names the difference and the remedy."""


def table(outcomes: list[dict]) -> str:
  """Returns a table with a line for each kind of fault and a line for the totals."""
  lines = [COLUMNS]
  for kind in dict.fromkeys(outcome['kind'] for outcome in outcomes):
    of_kind = [outcome for outcome in outcomes if outcome['kind'] == kind]
    survived, reported = (
      sum(bool(outcome[key]) for outcome in of_kind) for key in ('survived', 'message')
    )
    seconds = [outcome['seconds'] for outcome in of_kind]
    processor = statistics.median(outcome['processor_seconds'] for outcome in of_kind)
    times = statistics.median(seconds), max(seconds), processor
    lines.append((kind, len(of_kind), survived, reported, *(f'{time:.1f}' for time in times)))
  lines = [f'{kind:<12}' + ''.join(f'{cell:>13}' for cell in rest) for kind, *rest in lines]
  hangs = sum(outcome['failure'].startswith('hang') for outcome in outcomes)
  survived = sum(outcome['survived'] for outcome in outcomes)
  lines.append(
    f'{len(outcomes)} rounds: {survived} survived, {len(outcomes) - survived - hangs} differed or lacked a '
    f'message, {hangs} hung; {sum(outcome["seconds"] for outcome in outcomes) / 60:.0f} minutes'
  )
  return '\n'.join(lines)


def kinds_of(options: argparse.Namespace) -> list[str]:
  """Returns the kinds of fault; round N uses the kind N modulo their number."""
  if options.kinds:
    return options.kinds.split(',')
  if options.controls:
    return list(controls.LEFT_OUT)
  kinds = list(scenarios.KINDS)
  if not scenarios.is_root():
    kinds.remove('disk')
    print('note: mounting requires root; the rounds of kind disk are left out', file=sys.stderr)
  return kinds


def recorded(path: pathlib.Path, seed: int, kinds: list[str]) -> list[dict]:
  """Returns the rounds of an output file, or no rounds if the file does not exist.

  Raises:
    UsageError: the file has another seed, other kinds or other code, or it is not an output of this program.
  """
  if not path.exists():
    return []
  remedy = 'choose another --output, or remove the file'
  try:
    content = json.loads(path.read_text())
    rounds = content['rounds']
    differs = [
      outcome for outcome in rounds if outcome['kind'] != kinds[outcome['number'] % len(kinds)]
    ]
    if content['seed'] != seed:
      raise UsageError(f'{path} holds rounds of --seed={content["seed"]}, not {seed}: {remedy}')
  except (ValueError, KeyError, TypeError):
    raise UsageError(f'{path} is not an output of this program: {remedy}') from None
  if differs:
    first = differs[0]
    raise UsageError(
      f'{path} holds other kinds of faults (round {first["number"]} is {first["kind"]!r}): {remedy}'
    )
  if content.get('code') != plan.code_version():
    raise UsageError(f'{path} holds rounds of other code: {remedy}')
  return rounds


def campaign(options: argparse.Namespace) -> tuple[list[dict], int]:
  """Runs the rounds that the output file lacks and adds each to the file.

  Returns:
    The outcomes of the rounds that `options` select, and the number of rounds that were run now.

  Raises:
    UsageError: as in `recorded`.
  """
  kinds, path = kinds_of(options), pathlib.Path(options.output)
  run = controls.run_round if options.controls else scenarios.run_round
  outcomes, began, count = recorded(path, options.seed, kinds), time.monotonic(), 0
  harness = harness_lib.Harness(pathlib.Path(options.folder))
  numbers = range(options.part, options.rounds, options.parts)
  for number in numbers:
    if any(outcome['number'] == number for outcome in outcomes):
      continue
    if options.budget and time.monotonic() - began > options.budget:
      break
    outcome = run(harness, number, options.seed, kinds[number % len(kinds)])._asdict()
    count += 1
    outcomes = sorted([*outcomes, outcome], key=lambda outcome: outcome['number'])
    print(json.dumps(outcome), file=sys.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix('.tmp')
    lines = ',\n'.join(json.dumps(outcome) for outcome in outcomes)
    head = f'"seed": {options.seed}, "code": "{plan.code_version()}"'
    temporary.write_text(f'{{{head}, "rounds": [\n{lines}\n]}}\n')
    temporary.replace(path)
  return [outcome for outcome in outcomes if outcome['number'] in numbers], count


def parse(argv: list[str] | None = None) -> argparse.Namespace:
  """Parses the command line and fills in the defaults that depend on other options."""
  parser = argparse.ArgumentParser(prog='python -m tests.faults', description=__doc__)
  parser.add_argument(
    '--rounds', type=int, help='number of rounds: 200 by default, or 40 with --controls'
  )
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--kinds', default='', help=', '.join(scenarios.KINDS))
  parser.add_argument(
    '--output',
    help='by default runs/faults.json or runs/controls.json, with the seed in the name unless it is 0',
  )
  parser.add_argument('--folder', default=os.path.join(tempfile.gettempdir(), 'alexnet_jax_faults'))
  parser.add_argument(
    '--budget', type=float, default=0, help='number of seconds after which the campaign stops'
  )
  parser.add_argument(
    '--part',
    type=int,
    default=0,
    help='which of --parts equal parts to run; each part needs its own --output and --folder',
  )
  parser.add_argument('--parts', type=int, default=1)
  parser.add_argument('--controls', action='store_true')
  options = parser.parse_args(argv)
  name = 'controls' if options.controls else 'faults'
  ending = f'-seed{options.seed}' if options.seed else ''
  options.output = options.output or f'runs/{name}{ending}.json'
  if options.rounds is None:
    options.rounds = controls.ROUNDS * len(controls.LEFT_OUT) if options.controls else 200
  return options


def main() -> int:
  options = parse()
  try:
    outcomes, count = campaign(options)
  except UsageError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  print(controls.table(outcomes) if options.controls else table(outcomes))
  print(f'{count} rounds were run now; {len(outcomes) - count} were read from {options.output}')
  if options.controls:
    return 0 if min(controls.shares(outcomes).values(), default=0) >= controls.NEEDED else 1
  return 0 if all(outcome['survived'] for outcome in outcomes) else 1


if __name__ == '__main__':
  sys.exit(main())
