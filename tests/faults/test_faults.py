"""A short fault campaign: runs survive faults at seeded moments, and a control is detected.

The full campaign is `python -m tests.faults --rounds=200 --seed=0`; RESULTS.md has its result.
"""

import json

import pytest

from benchmarks.gpu import plan
from faults import controls, harness, scenarios
from faults.__main__ import UsageError, campaign, parse, table
from faults.child import cut_power

SECRET = 'the value of a secret variable'


@pytest.fixture(scope='module')
def shared(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('SOME_API_KEY', SECRET)
    yield harness.Harness(tmp_path_factory.mktemp('harness'))


@pytest.mark.parametrize(('number', 'kind'), [(1, 'checkpoint'), (2, 'power'), (3, 'read-only')])
@pytest.mark.long
def test_a_run_survives_a_fault(shared, number, kind):
  """test_loop.py, test_preemption.py and test_multihost.py test other kinds of faults."""
  found = scenarios.run_round(shared, number, seed=7, kind=kind)
  assert found.survived, found


@pytest.mark.long
def test_a_run_that_loses_its_momentum_is_detected(shared):
  assert 'another' in controls.run_round(shared, 0, 7, 'momentum').failure


@pytest.mark.long
def test_environment_variables_are_not_written_to_the_workdir(shared):
  shared.reference('folder')
  files = [path for path in (shared.folder / 'undisturbed-folder').rglob('*') if path.is_file()]
  assert len(files) > 10
  assert not [path for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize('state', controls.LEFT_OUT)
def test_controls_patch_texts_that_exist(tmp_path, state):
  controls.patched_copy(tmp_path / 'code', controls.LEFT_OUT[state][1])


def test_a_power_cut_truncates_unsynced_files(tmp_path):
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


def outcome(number, kind):
  """Returns a round as the output file contains it."""
  return scenarios.Outcome(number, kind, 'after 1.00 s', True, '', '', 9.0, 3.0)._asdict()


def test_recorded_rounds_of_another_seed_or_other_code_are_kept(tmp_path, monkeypatch):
  """By default, another seed writes to another file."""
  assert parse(['--seed=77']).output != parse([]).output
  path = tmp_path / 'faults.json'
  rounds = [outcome(0, 'kill'), outcome(1, 'kill')]
  text = json.dumps({'seed': 0, 'code': plan.code_version(), 'rounds': rounds})
  path.write_text(text)
  options = [f'--output={path}', f'--folder={tmp_path}', '--kinds=kill']
  for wrong, message in (
    (['--seed=77', '--kinds=kill'], '--seed=0, not 77'),
    (['--kinds=term'], "round 0 is 'kill'"),
  ):
    with pytest.raises(UsageError, match=message):
      campaign(parse([*options, '--rounds=3', *wrong]))
  assert path.read_text() == text
  found, count = campaign(parse([*options, '--rounds=1']))
  assert (len(found), count) == (1, 0)
  assert table(found).splitlines()[-1].startswith('1 rounds: 1 survived')
  monkeypatch.setattr(plan, 'code_version', lambda: 'other')
  with pytest.raises(UsageError, match='other code'):
    campaign(parse([*options, '--rounds=1']))
