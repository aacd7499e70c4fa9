"""A run records when, how long and on which machine it was trained."""

import datetime

import pytest
from tiny import tiny_config

from alexnet_jax.training.loop import train
from alexnet_jax.workdir import sessions


def test_a_session_that_ends_or_fails_has_a_duration_and_a_killed_one_has_none(tmp_path):
  """Each session is one dict, oldest first; a torn line is left out, and a missing file has no sessions."""
  assert sessions.read(tmp_path) == []
  with sessions.recorded(tmp_path, 0):
    pass
  with pytest.raises(ZeroDivisionError), sessions.recorded(tmp_path, 5):
    raise ZeroDivisionError
  path = tmp_path / sessions.FILE
  killed = path.read_text().splitlines()[0]
  path.write_text(path.read_text() + f'{killed}\n{{"torn')
  first, failed, last = sessions.read(tmp_path)
  assert first['step'] == 0 and failed['step'] == 5
  assert first['seconds'] >= 0 and failed['seconds'] >= 0 and 'seconds' not in last
  assert datetime.datetime.fromisoformat(first['start']).tzinfo is datetime.UTC
  assert first['platform'] == 'cpu' and first['cores'] >= 1 and first['device'] and first['jax']


def test_a_line_that_was_cut_off_spoils_no_other(tmp_path):
  path = tmp_path / sessions.FILE
  with sessions.recorded(tmp_path, 0):
    pass
  path.write_bytes(path.read_bytes() + b'null\n5\n\xff\n{"start": "cut')
  with sessions.recorded(tmp_path, 7):
    pass
  with sessions.recorded(tmp_path, 9):
    path.write_text(path.read_text(errors='replace').rsplit('{', 1)[0])  # its first line is lost
  found = sessions.read(tmp_path)
  assert [session['step'] for session in found] == [0, 7]
  assert all(session['seconds'] < 100 for session in found)


def test_an_unwritable_file_does_not_stop_training(tmp_path):
  (tmp_path / sessions.FILE).mkdir()
  with sessions.recorded(tmp_path, 0):
    pass
  assert sessions.read(tmp_path) == []


@pytest.mark.long
def test_training_records_its_sessions(tmp_path):
  """A run that is continued has two sessions; a command that has nothing to do adds none."""
  train(tiny_config(train__steps=1), tmp_path)
  train(tiny_config(train__steps=2), tmp_path)
  train(tiny_config(train__steps=2), tmp_path)
  assert [session['step'] for session in sessions.read(tmp_path)] == [0, 1]
