"""Controls: a patched copy of the program forgets one piece of state, and the scenarios must detect it."""

from collections import Counter
import functools
import pathlib
import re
import shutil

from tiny import ROOT

from . import scenarios
from .harness import Harness

ROUNDS, NEEDED = 10, 0.9

# By what is left out: the scenario that should detect it, and (file or folder, text, replacement)
# for the copy.
LEFT_OUT = {
  'random key': (
    'late kill',
    (
      (
        'alexnet_jax/steps/rng.py',
        'fold_in(seed_key, step)',
        'fold_in(seed_key, abs(step - BEGAN))',
      ),
      ('alexnet_jax/steps/rng.py', 'Array = jax.Array\n', 'Array = jax.Array\nBEGAN = 0\n'),
      (
        'alexnet_jax/training',
        "logging.info('resuming",
        "import alexnet_jax.steps.rng as rng; rng.BEGAN = step; logging.info('resuming",
      ),
    ),
  ),
  'momentum': (
    'late kill',
    (
      (
        'alexnet_jax/workdir/checkpoint.py',
        "**items['optimizer'], ema=items.get('ema', {}))",
        "**(items['optimizer'] | {'opt_state': jax.tree.map(jnp.zeros_like, "
        "items['optimizer']['opt_state'])}), ema=items.get('ema', {}))",
      ),
    ),
  ),
  'schedule state': (
    'late kill',
    (
      (
        'alexnet_jax/training',
        "schedules.ScheduleState(**meta['schedule'])",
        'schedules.ScheduleState()',
      ),
    ),
  ),
  'fsync': (
    'late power',
    (
      ('alexnet_jax/utils/atomic_io.py', '    os.fsync(descriptor)\n', '    pass\n'),
      ('alexnet_jax/utils/atomic_io.py', '      os.fsync(file.fileno())\n', ''),
      ('alexnet_jax/workdir/metrics.py', '      os.fsync(self._file.fileno())\n', '      pass\n'),
    ),
  ),
}


def patched_copy(folder: pathlib.Path, changes: tuple) -> pathlib.Path:
  """Copies the program with texts replaced; each text must occur exactly once."""
  shutil.rmtree(folder, ignore_errors=True)
  shutil.copytree(
    ROOT / 'alexnet_jax', folder / 'alexnet_jax', ignore=shutil.ignore_patterns('__pycache__')
  )
  shutil.copy(ROOT / 'main.py', folder)
  for name, before, after in changes:
    place = folder / name
    files = sorted(place.rglob('*.py')) if place.is_dir() else [place]
    found = [path for path in files if before in path.read_text()]
    assert len(found) == 1, f'{name} does not hold {before!r} in one file'
    text = found[0].read_text()
    assert text.count(before) == 1, f'{found[0]} does not hold {before!r} once'
    found[0].write_text(text.replace(before, after))
  return folder


@functools.cache
def _harness(folder: pathlib.Path, what: str) -> Harness:
  return Harness(folder, patched_copy(folder / 'code', LEFT_OUT[what][1]))


def run_round(unpatched: Harness, number: int, seed: int, what: str) -> scenarios.Outcome:
  """Runs a scenario on the copy without `what` and compares it with a run of the unpatched program."""
  harness = _harness(unpatched.folder / f'without {what}'.replace(' ', '-'), what)
  harness.undisturbed = {'folder': unpatched.reference('folder')}
  return scenarios.run_round(harness, number, seed, LEFT_OUT[what][0])._replace(kind=what)


def noticed(one: dict) -> str:
  """Returns the difference that a round reported; '' for none and for a copy that did not run at all."""
  return '' if one['failure'].startswith('a traceback') else one['failure']


def shares(found: list[dict]) -> dict[str, float]:
  """Returns, for each piece of state left out, the share of rounds that reported a difference."""
  kinds = dict.fromkeys(one['kind'] for one in found)
  of = {what: [bool(noticed(one)) for one in found if one['kind'] == what] for what in kinds}
  return {what: sum(reported) / len(reported) for what, reported in of.items()}


def _short(text: str) -> str:
  return re.split(r'[:(]', text)[0].strip()


def table(found: list[dict]) -> str:
  """Formats a line for each piece of state and a closing line."""
  lines = [f'{"left out":<18}{"rounds":>8}{"noticed":>9}   as']
  for what in shares(found):
    failures = [_short(noticed(one)) for one in found if one['kind'] == what]
    as_what = Counter(filter(None, failures))
    examples = ', '.join(f'{text} ({number})' for text, number in as_what.items())
    lines.append(f'{what:<18}{len(failures):>8}{as_what.total():>9}   {examples}')
  worst = min(shares(found).values(), default=0)
  lines.append(
    f'{len(shares(found))} controls: each was noticed in {worst:.0%} of its rounds or more'
  )
  return '\n'.join(lines)
