"""Only one run at a time can lock a workdir."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from tiny import ROOT, tiny_config

from alexnet_jax.errors import UserError
from alexnet_jax.training.loop import train
from alexnet_jax.workdir import lock

HOLDER = (
  'import pathlib, sys, time\nfrom alexnet_jax.workdir.lock import locked\n'
  'with locked(pathlib.Path(sys.argv[1])):\n  print("held", flush=True)\n  time.sleep(600)'
)


@pytest.fixture
def other(tmp_path):
  """Another process that holds the lock."""
  process = subprocess.Popen(
    [sys.executable, '-c', HOLDER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
  )
  assert process.stdout.readline() == 'held\n'
  yield process
  process.kill()
  process.communicate()


def test_a_second_run_is_refused_until_the_first_has_ended(other, tmp_path):
  name = f'in use by another run .host {socket.gethostname()}, process {other.pid}, since 20'
  with pytest.raises(UserError, match=name):
    train(tiny_config(train__steps=1), tmp_path)
  assert not (tmp_path / 'checkpoints').exists()
  other.send_signal(signal.SIGKILL)
  other.wait()
  assert train(tiny_config(train__steps=1), tmp_path)['step'] == 1
  assert json.loads((tmp_path / lock.LOCK).read_text())['pid'] == os.getpid()


def test_a_file_system_without_locks_gives_a_warning(tmp_path, monkeypatch, caplog):
  def no_locks(*_):
    raise OSError(95, 'Operation not supported')

  monkeypatch.setattr(fcntl, 'flock', no_locks)
  with lock.locked(tmp_path):
    pass
  assert 'cannot be locked' in caplog.text


def test_the_text_of_the_lock_file_does_not_matter(tmp_path):
  for text in ('', '{', '[1]', 'x' * 10_000):
    (tmp_path / lock.LOCK).write_text(text)
    refused = pytest.raises(UserError, match='in use by another run')
    with lock.locked(tmp_path), refused, lock.locked(tmp_path):
      pass
