"""`python -m tests.faults --rounds=200 --seed=0`: the campaign; `--controls`: that it would notice.

Resumable: rounds in --output are not fought again. --budget=SECONDS stops early with what there is.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

from . import arena as arena_lib
from . import controls, rounds

COLUMNS = ('fault', 'rounds', 'survived', 'told', 'median s', 'longest s', 'processor s')


def table(found: list[dict]) -> str:
  """A line a kind, and a closing line."""
  lines = [COLUMNS]
  for kind in dict.fromkeys(one['kind'] for one in found):
    of_kind = [one for one in found if one['kind'] == kind]
    survived, told = (sum(bool(one[name]) for one in of_kind) for name in ('survived', 'told'))
    seconds = [one['seconds'] for one in of_kind]
    worked = statistics.median(one['processor_seconds'] for one in of_kind)
    times = statistics.median(seconds), max(seconds), worked
    lines.append((kind, len(of_kind), survived, told, *(f'{time:.1f}' for time in times)))
  lines = [f'{kind:<12}' + ''.join(f'{cell:>13}' for cell in rest) for kind, *rest in lines]
  hangs = sum(one['wrong'].startswith('hang') for one in found)
  survived = sum(one['survived'] for one in found)
  lines.append(
    f'{len(found)} rounds: {survived} survived, {len(found) - survived - hangs} differed or were not told, '
    f'{hangs} hung; {sum(one["seconds"] for one in found) / 60:.0f} minutes'
  )
  return '\n'.join(lines)


def kinds_of(options: argparse.Namespace) -> list[str]:
  """The kinds of round, which take turns."""
  if options.kinds:
    return options.kinds.split(',')
  if options.controls:
    return list(controls.LEFT_OUT)
  kinds = list(rounds.KINDS)
  if not rounds.is_root():
    kinds.remove('disk')
    print('without root nothing can be mounted: no rounds of kind disk', file=sys.stderr)
  return kinds


def campaign(options: argparse.Namespace) -> list[dict]:
  """Fights the rounds that are not in the output yet."""
  kinds, path = kinds_of(options), pathlib.Path(options.output)
  fight = controls.fight_round if options.controls else rounds.fight_round
  found = json.loads(path.read_text())['rounds'] if path.exists() else []
  arena, began = arena_lib.Arena(pathlib.Path(options.folder)), time.monotonic()
  for number in range(options.rounds):
    if number % options.parts != options.part or any(one['number'] == number for one in found):
      continue
    if options.budget and time.monotonic() - began > options.budget:
      break
    one = fight(arena, number, options.seed, kinds[number % len(kinds)])
    found = sorted([*found, one._asdict()], key=lambda one: one['number'])
    print(json.dumps(one._asdict()), file=sys.stderr)
    temporary = path.with_suffix('.tmp')
    lines = ',\n'.join(json.dumps(one) for one in found)
    temporary.write_text(f'{{"seed": {options.seed}, "rounds": [\n{lines}\n]}}\n')
    temporary.replace(path)
  return found


def main() -> int:
  parser = argparse.ArgumentParser(prog='python -m tests.faults', description=__doc__)
  parser.add_argument('--rounds', type=int, help='200; of the controls 40')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--kinds', default='', help=', '.join(rounds.KINDS))
  parser.add_argument('--output', help='results/faults.json; of the controls results/controls.json')
  parser.add_argument('--folder', default=os.path.join(tempfile.gettempdir(), 'alexnet_jax_faults'))
  parser.add_argument('--budget', type=float, default=0, help='seconds after which to stop')
  parser.add_argument(
    '--part', type=int, default=0, help='of --parts, each with its own --output and --folder'
  )
  parser.add_argument('--parts', type=int, default=1)
  parser.add_argument('--controls', action='store_true')
  options = parser.parse_args()
  if options.controls:
    options.rounds = options.rounds or controls.ROUNDS * len(controls.LEFT_OUT)
    options.output = options.output or 'results/controls.json'
    found = campaign(options)
    print(controls.table(found))
    return 0 if min(controls.shares(found).values()) >= controls.NEEDED else 1
  options.rounds, options.output = options.rounds or 200, options.output or 'results/faults.json'
  found = campaign(options)
  print(table(found))
  return 0 if all(one['survived'] for one in found) else 1


if __name__ == '__main__':
  sys.exit(main())
