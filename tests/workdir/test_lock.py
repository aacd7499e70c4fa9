"""Only one run at a time can lock a workdir."""

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from tiny import ROOT, tiny_config

from alexnet_jax.distributed import multihost
from alexnet_jax.errors import RunError, UserError
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
  config = tiny_config(train__steps=1, model__layers=('conv1', 'fc6', 'fc8'))
  with pytest.raises(UserError, match=name):
    train(config, tmp_path)
  assert not (tmp_path / 'checkpoints').exists()
  other.send_signal(signal.SIGKILL)
  other.wait()
  assert train(config, tmp_path)['step'] == 1
  assert json.loads((tmp_path / lock.LOCK).read_text())['pid'] == os.getpid()


def test_a_file_system_without_locks_gives_a_warning(tmp_path, monkeypatch, caplog):
  def no_locks(*_):
    raise OSError(95, 'Operation not supported')

  monkeypatch.setattr(fcntl, 'flock', no_locks)
  with lock.locked(tmp_path):
    pass
  assert 'cannot be locked' in caplog.text


@pytest.fixture
def two_processes(monkeypatch):
  """Makes this process the first of two; the list has the pauses between trials to lock the workdir."""
  pauses = []
  monkeypatch.setattr(multihost, 'share', lambda: (0, 2))
  monkeypatch.setattr(lock.time, 'sleep', pauses.append)
  return pauses


def test_several_processes_wait_for_the_lock_of_a_lost_machine(
  tmp_path, two_processes, monkeypatch
):
  holder = contextlib.ExitStack()
  holder.enter_context(lock.locked(tmp_path))

  def pause(seconds):
    two_processes.append(seconds)
    if len(two_processes) == 3:
      holder.close()

  monkeypatch.setattr(lock.time, 'sleep', pause)
  with lock.locked(tmp_path):
    assert two_processes == [lock._PAUSE] * 3


def test_several_processes_fail_if_the_lock_stays(tmp_path, two_processes, monkeypatch):
  monkeypatch.setattr(lock, '_PATIENCE', 0.05)
  stays = pytest.raises(RunError, match=f'in use by .* was lost, delete {tmp_path}/lock')
  with lock.locked(tmp_path), stays, lock.locked(tmp_path):
    pass
  assert two_processes


@pytest.mark.parametrize(
  ('code', 'kind', 'remedy'),
  [
    (errno.EACCES, UserError, 'choose another folder'),
    (errno.EROFS, UserError, 'choose another folder'),
    (errno.ESTALE, RunError, 'check its file system, then run the same'),
    (errno.EIO, RunError, 'test the disk, '),
  ],
)
def test_a_failing_file_system_is_no_mistake(tmp_path, monkeypatch, code, kind, remedy):
  def fail(*_, **__):
    raise OSError(code, os.strerror(code))

  monkeypatch.setattr(lock.os, 'open', fail)
  with pytest.raises(kind, match=f'cannot be written .{os.strerror(code)}.: {remedy}'):
    lock.locked(tmp_path).__enter__()
  monkeypatch.setattr(lock.pathlib.Path, 'mkdir', fail)
  with pytest.raises(kind, match=remedy):
    lock.make_workdir(tmp_path)


def test_the_text_of_the_lock_file_does_not_matter(tmp_path):
  for text in ('', '{', '[1]', 'x' * 10_000):
    (tmp_path / lock.LOCK).write_text(text)
    refused = pytest.raises(UserError, match='in use by another run')
    with lock.locked(tmp_path), refused, lock.locked(tmp_path):
      pass
