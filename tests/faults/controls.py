"""Controls: with one piece of state left out in a patched copy, the rounds must report it."""

from collections import Counter
import functools
import pathlib
import re
import shutil

from tiny import ROOT

from . import rounds
from .arena import Arena

ROUNDS, NEEDED = 10, 0.9

# What is left out: the kind of round that should notice, and (file, text, replacement) that make the copy.
LEFT_OUT = {
  'random key': (
    'late kill',
    (
      ('alexnet_jax/rng.py', 'fold_in(seed_key, step)', 'fold_in(seed_key, abs(step - BEGAN))'),
      ('alexnet_jax/rng.py', 'Array = jax.Array\n', 'Array = jax.Array\nBEGAN = 0\n'),
      (
        'alexnet_jax/train.py',
        "    logging.info('resuming",
        "    from alexnet_jax import rng\n    rng.BEGAN = step\n    logging.info('resuming",
      ),
    ),
  ),
  'momentum': (
    'late kill',
    (
      (
        'alexnet_jax/checkpoint.py',
        "**items['optimizer'], ema=items.get('ema', {}))",
        "**(items['optimizer'] | {'opt_state': jax.tree.map(jnp.zeros_like, "
        "items['optimizer']['opt_state'])}), ema=items.get('ema', {}))",
      ),
    ),
  ),
  'schedule state': (
    'late kill',
    (('alexnet_jax/train.py', "optim.ScheduleState(**meta['schedule'])", 'optim.ScheduleState()'),),
  ),
  'fsync': (
    'late power',
    (
      ('alexnet_jax/durable.py', '    os.fsync(descriptor)\n', '    pass\n'),
      ('alexnet_jax/durable.py', '      os.fsync(file.fileno())\n', ''),
      ('alexnet_jax/logging.py', '      os.fsync(self._file.fileno())\n', '      pass\n'),
    ),
  ),
}


def patched_copy(folder: pathlib.Path, changes: tuple) -> pathlib.Path:
  """A copy of the program with texts replaced; each must be there, once."""
  shutil.rmtree(folder, ignore_errors=True)
  shutil.copytree(
    ROOT / 'alexnet_jax', folder / 'alexnet_jax', ignore=shutil.ignore_patterns('__pycache__')
  )
  shutil.copy(ROOT / 'main.py', folder)
  for name, before, after in changes:
    text = (folder / name).read_text()
    assert text.count(before) == 1, f'{name} does not hold {before!r} once'
    (folder / name).write_text(text.replace(before, after))
  return folder


@functools.cache
def _arena(folder: pathlib.Path, what: str) -> Arena:
  return Arena(folder, patched_copy(folder / 'code', LEFT_OUT[what][1]))


def fight_round(honest: Arena, number: int, seed: int, what: str) -> rounds.Round:
  """A round against the copy without `what`, compared with the undisturbed run of the honest program."""
  arena = _arena(honest.folder / f'without {what}'.replace(' ', '-'), what)
  arena.undisturbed = {'folder': honest.reference('folder')}
  return rounds.fight_round(arena, number, seed, LEFT_OUT[what][0])._replace(kind=what)


def noticed(one: dict) -> str:
  """What a round reported; '' for nothing, and where the copy did not even run."""
  return '' if one['wrong'].startswith('a traceback') else one['wrong']


def shares(found: list[dict]) -> dict[str, float]:
  """The share of the rounds that reported a difference, by what was left out."""
  kinds = dict.fromkeys(one['kind'] for one in found)
  of = {what: [bool(noticed(one)) for one in found if one['kind'] == what] for what in kinds}
  return {what: sum(reported) / len(reported) for what, reported in of.items()}


def _short(text: str) -> str:
  return re.split(r'[:(]', text)[0].strip()


def table(found: list[dict]) -> str:
  """A line for each piece of state, and a closing line."""
  lines = [f'{"left out":<18}{"rounds":>8}{"noticed":>9}   as']
  for what in shares(found):
    wrong = [_short(noticed(one)) for one in found if one['kind'] == what]
    as_what = Counter(filter(None, wrong))
    examples = ', '.join(f'{text} ({number})' for text, number in as_what.items())
    lines.append(f'{what:<18}{len(wrong):>8}{as_what.total():>9}   {examples}')
  worst = min(shares(found).values(), default=0)
  lines.append(
    f'{len(shares(found))} controls: each was noticed in {worst:.0%} of its rounds or more'
  )
  return '\n'.join(lines)
