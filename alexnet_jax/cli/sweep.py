"""`--sweep`: trains one run after the other, one for each combination of values of config keys."""

import itertools
import json
import pathlib
import re
import sys

from absl import logging
from ml_collections import ConfigDict

from alexnet_jax import config as config_lib
from alexnet_jax.cli import flags
from alexnet_jax.errors import RunError, UserError, is_memory
from alexnet_jax.training.loop import train
from alexnet_jax.utils.suggestion import suggest
from alexnet_jax.workdir import lock

FILE = 'sweep.json'
_LONGEST = 255  # bytes of a file name
_SHORT = {'lr': 'optim.rate'}  # The name of the learning rate in metrics.jsonl.


def _key(name: str, config: ConfigDict) -> str:
  """Returns the full name of a key; `name` may be its last parts where no other key ends with them."""
  keys = list(config_lib.flatten(config))
  name = _SHORT.get(name, name)
  found = [name] if name in keys else [key for key in keys if key.endswith(f'.{name}')]
  if len(found) != 1:
    if found:
      raise UserError(f'--sweep: the key {name!r} may be {" or ".join(found)}: write one of them')
    hint = suggest(name, keys, 'the same command with --helpfull lists the keys')
    raise UserError(f'--sweep: unknown config key {name!r}: {hint}')
  return found[0]


def combinations(text: str, config: ConfigDict) -> list[dict[str, str]]:
  """Returns the combinations of the values in a sweep.

  Args:
    text: keys and their values, such as `'optim.rate=0.01,0.02 seed=0,1'`.
    config: the config, which has the keys.

  Returns:
    The values of each run, `[{'optim.rate': '0.01', 'seed': '0'}, ...]`; the last key varies fastest.

  Raises:
    UserError: the text is malformed, or a key is unknown, ambiguous or repeated.
  """
  values: dict[str, list[str]] = {}
  for part in text.split():
    name, equals, listed = part.partition('=')
    found = _split(listed)
    if not equals or '' in found:
      raise UserError(f'--sweep={text!r}: write it as in --sweep="optim.rate=0.01,0.02 seed=0,1"')
    key = _key(name.removeprefix('config.'), config)
    if key in values:
      raise UserError(f'--sweep={text!r} has {key} twice: write all its values in one list')
    values[key] = found
  return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


def _split(listed: str) -> list[str]:
  """Splits values at the commas outside brackets: (25.,51.) is one value."""
  found, depth = [''], 0
  for letter in listed:
    depth += {'(': 1, ')': -1}.get(letter, 0)
    if letter == ',' and not depth:
      found.append('')
    else:
      found[-1] += letter
  return found


def plan(options: flags.Options) -> list[tuple[dict[str, str], flags.Options]]:
  """Returns the values and the options of each run; raises UserError if one of them is not valid."""
  runs = []
  for values in combinations(options.sweep, options.config):
    name = re.sub(r'[^\w.=,()+-]', '_', ','.join(f'{key}={x}' for key, x in values.items()))
    if len(name.encode()) > _LONGEST:
      raise UserError(
        f'--sweep: the folder of a run would have the name {name[:60]}..., which is too long: give long '
        'values in a config file instead'
      )
    folder = pathlib.Path(options.workdir) / name
    changes = [f'--config.{key}={x}' for key, x in values.items()]
    own = flags.parse([*options.argv, '--sweep=', f'--workdir={folder}', *changes])
    config_lib.validate(own.config)
    runs.append((values, own))
  return runs


def run(options: flags.Options) -> dict[str, object]:
  """Trains each run in its own folder under the workdir; a run that is complete is not repeated.

  Returns:
    `{'runs': [{'values', 'workdir', 'step', 'loss', 'top1_error', ...}, ...], 'best'}`, which is also written
    to WORKDIR/sweep.json. The entry of a failed run has the message as `failed`, and the sweep continues.
    `best` is the workdir with the lowest validation error or, without validation images, the lowest loss.

  Raises:
    UserError: a key, a value or a config is not valid, or another sweep uses the workdir; no run has started
      then.
    RunError: every run has failed.
    Preempted: the process received SIGTERM; the same command resumes the sweep.
  """
  runs, workdir = plan(options), pathlib.Path(options.workdir)
  lock.make_workdir(workdir)
  with lock.locked(workdir):
    result, rows = _train_all(runs, workdir)
  _show(rows)
  if all('failed' in row for row in rows):
    raise RunError(f'every run of the sweep failed: {workdir / FILE} has their messages')
  return result


def _train_all(
  runs: list[tuple[dict[str, str], flags.Options]], workdir: pathlib.Path
) -> tuple[dict[str, object], list[dict]]:
  """Trains the runs and writes the result after each; returns it and the entries of the runs."""
  result: dict[str, object] = {}
  rows: list[dict] = []
  for i, (values, own) in enumerate(runs, 1):
    logging.info('run %d of %d: %s', i, len(runs), _text(values))
    try:
      row = train(own.config, own.workdir, is_followed=i < len(runs))
    except (RunError, UserError) as error:  # some values are only checked when a run starts
      logging.error('%s', error)
      row = {'failed': str(error)}
    except (MemoryError, RuntimeError) as error:
      if not is_memory(error):
        raise
      logging.error('out of memory: %s', error)
      row = {'failed': 'out of memory'}
    rows.append({'values': values, 'workdir': own.workdir, **row})
    result = {'runs': rows, 'best': _best(rows)}
    (workdir / FILE).write_text(json.dumps(result, indent=2))
  return result, rows


def _best(rows: list[dict]) -> str | None:
  done = [row for row in rows if 'failed' not in row]
  key = 'top1_error' if all(row['top1_error'] is not None for row in done) else 'loss'
  # A run may end before its first loss is read.
  known = [row for row in done if row[key] is not None]
  return min(known, key=lambda row: row[key])['workdir'] if known else None


def _text(values: dict[str, str]) -> str:
  return ' '.join(f'{key}={value}' for key, value in values.items())


def _show(rows: list[dict]) -> None:
  """Prints the table of all runs to stderr."""
  line = f'{{:<{max(len(_text(row["values"])) for row in rows)}}} {{:>8}} {{:>10}} {{:>13}}'
  print(line.format('', 'step', 'loss', 'top-1 error %'), file=sys.stderr)
  for row in rows:
    cells = ('failed', '', '')
    if 'failed' not in row:
      cells = (row['step'], _number(row['loss'], 4), _number(row['top1_error'], 2))
    print(line.format(_text(row['values']), *cells), file=sys.stderr)


def _number(value: float | None, digits: int) -> str:
  return '-' if value is None else f'{value:.{digits}f}'
