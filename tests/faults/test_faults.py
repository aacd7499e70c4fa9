"""A short campaign: real runs, broken at seeded moments; and a control, which must be noticed.

The long one is `python -m tests.faults --rounds=200 --seed=0`; its result is in RESULTS.md.
"""

import pytest

from faults import controls, rounds
from faults.arena import Arena
from faults.child import cut_power

SECRET = 'not to be told'


@pytest.fixture(scope='module')
def arena(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('SOME_API_KEY', SECRET)
    yield Arena(tmp_path_factory.mktemp('arena'))


@pytest.mark.parametrize(('number', 'kind'), [(1, 'checkpoint'), (2, 'power'), (3, 'read-only')])
def test_a_round(arena, number, kind):
  """The other kinds are tested by themselves: in test_train.py, test_preemption.py, test_distributed.py."""
  found = rounds.fight_round(arena, number, seed=7, kind=kind)
  assert found.survived, found


def test_a_run_that_forgets_its_momentum_is_noticed(arena):
  assert 'another' in controls.fight_round(arena, 0, 7, 'momentum').wrong


def test_nothing_of_the_environment_is_written_down(arena):
  arena.reference('folder')
  files = [path for path in (arena.folder / 'undisturbed-folder').rglob('*') if path.is_file()]
  assert len(files) > 10
  assert not [path for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize('what', controls.LEFT_OUT)
def test_the_texts_that_controls_replace_are_there(tmp_path, what):
  controls.patched_copy(tmp_path / 'code', controls.LEFT_OUT[what][1])


def test_a_power_cut_takes_what_was_not_synced(tmp_path):
  (tmp_path / 'run').mkdir()
  lines = []
  for name, synced in (('whole', 5), ('grown', 3), ('lost', None)):
    path = tmp_path / 'run' / name
    path.write_bytes(b'12345')
    found = path.stat()
    if synced:
      lines.append(f'{found.st_ino} {synced} {found.st_mtime_ns}\n')
  (tmp_path / 'log').write_text(''.join(lines))
  assert cut_power(tmp_path / 'run', tmp_path / 'log') == 2
  sizes = {path.name: path.stat().st_size for path in (tmp_path / 'run').iterdir()}
  assert sizes == {'whole': 5, 'grown': 3, 'lost': 0}
