"""Runs the fault campaign: `python -m tests.faults --rounds=200 --seed=0`; `--controls` runs the controls.

Rounds that --output already holds, from the same seed and kinds, are read and not repeated. --budget=SECONDS
stops the campaign early; the same command continues it.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

from . import controls, scenarios
from . import harness as harness_lib

COLUMNS = ('fault', 'rounds', 'survived', 'reported', 'median s', 'longest s', 'processor s')


class UsageError(Exception):
  """The options do not fit the output file; the message names both and the remedy."""


def table(found: list[dict]) -> str:
  """Formats a line for each kind of fault and a closing line."""
  lines = [COLUMNS]
  for kind in dict.fromkeys(one['kind'] for one in found):
    of_kind = [one for one in found if one['kind'] == kind]
    survived, reported = (sum(bool(one[key]) for one in of_kind) for key in ('survived', 'message'))
    seconds = [one['seconds'] for one in of_kind]
    processor = statistics.median(one['processor_seconds'] for one in of_kind)
    times = statistics.median(seconds), max(seconds), processor
    lines.append((kind, len(of_kind), survived, reported, *(f'{time:.1f}' for time in times)))
  lines = [f'{kind:<12}' + ''.join(f'{cell:>13}' for cell in rest) for kind, *rest in lines]
  hangs = sum(one['failure'].startswith('hang') for one in found)
  survived = sum(one['survived'] for one in found)
  lines.append(
    f'{len(found)} rounds: {survived} survived, {len(found) - survived - hangs} differed or lacked a '
    f'message, {hangs} hung; {sum(one["seconds"] for one in found) / 60:.0f} minutes'
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
  """Returns the rounds of an output file; none where there is no file.

  Raises:
    UsageError: the file is of another seed or of other kinds, or it is no output of this program.
  """
  if not path.exists():
    return []
  remedy = 'choose another --output, or remove the file'
  try:
    content = json.loads(path.read_text())
    rounds = content['rounds']
    differs = [one for one in rounds if one['kind'] != kinds[one['number'] % len(kinds)]]
    if content['seed'] != seed:
      raise UsageError(f'{path} holds rounds of --seed={content["seed"]}, not {seed}: {remedy}')
  except (ValueError, KeyError, TypeError):
    raise UsageError(f'{path} is not an output of this program: {remedy}') from None
  if differs:
    first = differs[0]
    raise UsageError(
      f'{path} holds other kinds of faults (round {first["number"]} is {first["kind"]!r}): {remedy}'
    )
  return rounds


def campaign(options: argparse.Namespace) -> tuple[list[dict], int]:
  """Runs the rounds that the output file lacks and adds each to the file.

  Returns:
    The outcomes of the rounds that `options` ask for, and how many of them were run now.

  Raises:
    UsageError: as `recorded`.
  """
  kinds, path = kinds_of(options), pathlib.Path(options.output)
  run = controls.run_round if options.controls else scenarios.run_round
  found, began, count = recorded(path, options.seed, kinds), time.monotonic(), 0
  harness = harness_lib.Harness(pathlib.Path(options.folder))
  asked = range(options.part, options.rounds, options.parts)
  for number in asked:
    if any(one['number'] == number for one in found):
      continue
    if options.budget and time.monotonic() - began > options.budget:
      break
    one = run(harness, number, options.seed, kinds[number % len(kinds)])._asdict()
    count += 1
    found = sorted([*found, one], key=lambda one: one['number'])
    print(json.dumps(one), file=sys.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix('.tmp')
    lines = ',\n'.join(json.dumps(one) for one in found)
    temporary.write_text(f'{{"seed": {options.seed}, "rounds": [\n{lines}\n]}}\n')
    temporary.replace(path)
  return [one for one in found if one['number'] in asked], count


def parse(argv: list[str] | None = None) -> argparse.Namespace:
  """Parses the command line and fills in the defaults that depend on other options."""
  parser = argparse.ArgumentParser(prog='python -m tests.faults', description=__doc__)
  parser.add_argument('--rounds', type=int, help='number of rounds; 200, of the controls 40')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--kinds', default='', help=', '.join(scenarios.KINDS))
  parser.add_argument(
    '--output', help='results/faults.json or results/controls.json for seed 0; else a file per seed'
  )
  parser.add_argument('--folder', default=os.path.join(tempfile.gettempdir(), 'alexnet_jax_faults'))
  parser.add_argument('--budget', type=float, default=0, help='seconds after which to stop')
  parser.add_argument(
    '--part', type=int, default=0, help='of --parts, each with its own --output and --folder'
  )
  parser.add_argument('--parts', type=int, default=1)
  parser.add_argument('--controls', action='store_true')
  options = parser.parse_args(argv)
  name = 'controls' if options.controls else 'faults'
  ending = f'-seed{options.seed}' if options.seed else ''
  options.output = options.output or f'results/{name}{ending}.json'
  if options.rounds is None:
    options.rounds = controls.ROUNDS * len(controls.LEFT_OUT) if options.controls else 200
  return options


def main() -> int:
  options = parse()
  try:
    found, count = campaign(options)
  except UsageError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  print(controls.table(found) if options.controls else table(found))
  print(f'{count} rounds were run now; {len(found) - count} were read from {options.output}')
  if options.controls:
    return 0 if min(controls.shares(found).values(), default=0) >= controls.NEEDED else 1
  return 0 if all(one['survived'] for one in found) else 1


if __name__ == '__main__':
  sys.exit(main())
