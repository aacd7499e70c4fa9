"""Controls: a patched copy of the program loses one piece of state, and a scenario must detect it."""

from collections import Counter
import functools
import pathlib
import re
import shutil

from tiny import ROOT

from . import scenarios
from .harness import Harness

ROUNDS, NEEDED = 10, 0.9

# Maps the state that is left out to the scenario that should detect it and to the patches of the copy. A
# patch is (file or folder, text, replacement).
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
  """Copies the program and replaces texts, each of which must occur exactly once."""
  shutil.rmtree(folder, ignore_errors=True)
  shutil.copytree(
    ROOT / 'alexnet_jax', folder / 'alexnet_jax', ignore=shutil.ignore_patterns('__pycache__')
  )
  shutil.copy(ROOT / 'main.py', folder)
  for name, before, after in changes:
    target = folder / name
    files = sorted(target.rglob('*.py')) if target.is_dir() else [target]
    found = [path for path in files if before in path.read_text()]
    assert len(found) == 1, f'{name}: {before!r} is not in exactly one file'
    text = found[0].read_text()
    assert text.count(before) == 1, f'{found[0]} does not contain {before!r} exactly once'
    found[0].write_text(text.replace(before, after))
  return folder


@functools.cache
def _harness(folder: pathlib.Path, state: str) -> Harness:
  return Harness(folder, patched_copy(folder / 'code', LEFT_OUT[state][1]))


def run_round(unpatched: Harness, number: int, seed: int, state: str) -> scenarios.Outcome:
  """Runs a scenario on a copy without `state`, and compares it with a run of the unpatched program."""
  harness = _harness(unpatched.folder / f'without {state}'.replace(' ', '-'), state)
  harness.undisturbed = {'folder': unpatched.reference('folder')}
  return scenarios.run_round(harness, number, seed, LEFT_OUT[state][0])._replace(kind=state)


def detected(outcome: dict) -> str:
  """Returns the difference that a round reported.

  It is '' if there was no difference, and if the copy did not run at all.
  """
  return '' if outcome['failure'].startswith('a traceback') else outcome['failure']


def shares(outcomes: list[dict]) -> dict[str, float]:
  """Returns the share of rounds that reported a difference for each piece of state that was left out."""
  kinds = dict.fromkeys(outcome['kind'] for outcome in outcomes)
  reports = {
    kind: [bool(detected(outcome)) for outcome in outcomes if outcome['kind'] == kind]
    for kind in kinds
  }
  return {kind: sum(reported) / len(reported) for kind, reported in reports.items()}


def _short(text: str) -> str:
  return re.split(r'[:(]', text)[0].strip()


def table(outcomes: list[dict]) -> str:
  """Returns a table with a line for each piece of state and a summary line."""
  lines = [f'{"left out":<18}{"rounds":>8}{"detected":>9}   as']
  for kind in shares(outcomes):
    failures = [_short(detected(outcome)) for outcome in outcomes if outcome['kind'] == kind]
    counts = Counter(filter(None, failures))
    examples = ', '.join(f'{text} ({number})' for text, number in counts.items())
    lines.append(f'{kind:<18}{len(failures):>8}{counts.total():>9}   {examples}')
  worst = min(shares(outcomes).values(), default=0)
  lines.append(
    f'{len(shares(outcomes))} controls: each was detected in at least {worst:.0%} of its rounds'
  )
  return '\n'.join(lines)
