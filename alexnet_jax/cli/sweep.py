"""`--sweep`: one run after the other, for every combination of some values of the config."""

import itertools
import json
import pathlib
import re
import sys

from absl import logging
from ml_collections import ConfigDict

from alexnet_jax import config as config_lib
from alexnet_jax.cli import flags
from alexnet_jax.errors import RunError, UserError
from alexnet_jax.training.loop import train

FILE = 'sweep.json'
_SHORT = {'lr': 'optim.rate'}  # as metrics.jsonl calls it
_COMMA = re.compile(r',(?![^()]*\))')  # not in brackets: (25.,51.) is one value


def _key(name: str, config: ConfigDict) -> str:
  """The key that `name` means: the key itself, or its last parts where no other key ends with them."""
  keys = list(config_lib.flatten(config))
  name = _SHORT.get(name, name)
  found = [name] if name in keys else [key for key in keys if key.endswith(f'.{name}')]
  if len(found) != 1:
    hint = f'it may be {" or ".join(found)}' if found else flags.suggest(name, keys)
    raise UserError(f'--sweep: which key is {name!r}? {hint}')
  return found[0]


def combinations(text: str, config: ConfigDict) -> list[dict[str, str]]:
  """`'optim.rate=0.01,0.02 seed=0,1'` as `[{'optim.rate': '0.01', 'seed': '0'}, ...]`, the last fastest.

  Raises:
    UserError: it is written otherwise, or a key is not to be found.
  """
  values: dict[str, list[str]] = {}
  for part in text.split():
    name, equals, listed = part.partition('=')
    found = _COMMA.split(listed)
    if not equals or '' in found:
      raise UserError(f'--sweep={text!r}: write it as in --sweep="optim.rate=0.01,0.02 seed=0,1"')
    values[_key(name.removeprefix('config.'), config)] = found
  return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


def plan(options: flags.Options) -> list[tuple[dict[str, str], flags.Options]]:
  """The values and the options of each run; raises UserError before any has begun."""
  runs = []
  for values in combinations(options.sweep, options.config):
    name = re.sub(r'[^\w.=,()+-]', '_', ','.join(f'{key}={x}' for key, x in values.items()))
    folder = pathlib.Path(options.workdir) / name
    changes = [f'--config.{key}={x}' for key, x in values.items()]
    own = flags.parse([*options.argv, '--sweep=', f'--workdir={folder}', *changes])
    config_lib.validate(own.config)
    runs.append((values, own))
  return runs


def run(options: flags.Options) -> dict[str, object]:
  """Trains each run in a folder of its own under the workdir; what is done already is not done again.

  Returns:
    `{'runs': [{'values', 'workdir', 'step', 'loss', 'top1_error', ...}, ...], 'best'}`, also in
    WORKDIR/sweep.json. A run that failed has `failed`, why, and the sweep goes on. `best` is the workdir
    of the lowest validation error, or where there is none, of the lowest loss.

  Raises:
    UserError: a value, key or config that cannot be.
    Preempted: SIGTERM came; the same command goes on.
  """
  result: dict[str, object] = {}
  rows: list[dict] = []
  runs = plan(options)
  for i, (values, own) in enumerate(runs, 1):
    logging.info('run %d of %d: %s', i, len(runs), _text(values))
    try:
      row = train(own.config, own.workdir)
    except RunError as error:
      logging.error('%s', error)
      row = {'failed': str(error)}
    rows.append({'values': values, 'workdir': own.workdir, **row})
    result = {'runs': rows, 'best': _best(rows)}
    (pathlib.Path(options.workdir) / FILE).write_text(json.dumps(result, indent=2))
  _show(rows)
  return result


def _best(rows: list[dict]) -> str | None:
  done = [row for row in rows if 'failed' not in row]
  key = 'top1_error' if all(row['top1_error'] is not None for row in done) else 'loss'
  return min(done, key=lambda row: row[key])['workdir'] if done else None


def _text(values: dict[str, str]) -> str:
  return ' '.join(f'{key}={value}' for key, value in values.items())


def _show(rows: list[dict]) -> None:
  """The table of all runs, to stderr."""
  line = f'{{:<{max(len(_text(row["values"])) for row in rows)}}} {{:>8}} {{:>10}} {{:>13}}'
  print(line.format('', 'step', 'loss', 'top-1 error %'), file=sys.stderr)
  number = lambda value, digits: '-' if value is None else f'{value:.{digits}f}'
  for row in rows:
    found = ('failed', '', '') if 'failed' in row else (
      row['step'], number(row['loss'], 4), number(row['top1_error'], 2)
    )  # fmt: skip
    print(line.format(_text(row['values']), *found), file=sys.stderr)
