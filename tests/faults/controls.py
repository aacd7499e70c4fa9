"""Controls: with one piece of state left out in a patched copy, the rounds must report it."""

import pathlib
import shutil

from tiny import ROOT

from .arena import Arena
from .rounds import fight_round

ROUNDS, NEEDED = 10, 9

# What is left out: the kind of round that should notice, and (file, text, replacement) that make the copy.
LEFT_OUT = {
  'random key': (
    'late kill',
    (
      ('alexnet_jax/rng.py', 'fold_in(seed_key, step)', 'fold_in(seed_key, step - BEGAN)'),
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


def noticed(folder: pathlib.Path, what: str, number: int, seed: int, honest: Arena) -> str:
  """What a round against the copy without `what` reports; '' if it noticed nothing."""
  kind, changes = LEFT_OUT[what]
  home = folder / what.replace(' ', '-')
  arena = Arena(home, home / 'code')
  if not (home / 'code').exists():
    patched_copy(home / 'code', changes)
  arena.undisturbed = {'folder': honest.reference('folder')}
  return fight_round(arena, number, seed, kind).wrong


def main(folder: pathlib.Path, seed: int) -> int:
  """Fights `ROUNDS` rounds against each copy and prints a table."""
  honest, worst = Arena(folder), ROUNDS
  print(f'{"left out":<18}{"rounds":>8}{"noticed":>9}   as')
  for what in LEFT_OUT:
    shutil.rmtree(folder / what.replace(' ', '-'), ignore_errors=True)
    found = [noticed(folder, what, number, seed, honest) for number in range(ROUNDS)]
    worst = min(worst, sum(map(bool, found)))
    example = next(filter(None, found), '')[:60]
    print(f'{what:<18}{ROUNDS:>8}{sum(map(bool, found)):>9}   {example}', flush=True)
  print(f'{len(LEFT_OUT)} controls: each was noticed in at least {worst} of {ROUNDS} rounds')
  return 0 if worst >= NEEDED else 1
