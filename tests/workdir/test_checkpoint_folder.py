"""Checkpoints as folders: they are published, ranked, removed, and renamed if damaged."""

import errno
import os
import shutil

import pytest

from alexnet_jax.errors import RunError
from alexnet_jax.utils import atomic_io
from alexnet_jax.workdir.checkpoint_folder import CheckpointFolder


@pytest.fixture
def folder(tmp_path):
  folder = CheckpointFolder(tmp_path / 'checkpoints')
  folder.create()
  return folder


def publish(folder, step, error=None, keep=2):
  partial = folder.partial(step)
  partial.mkdir()
  (partial / 'data').write_bytes(bytes(10))
  metrics = {} if error is None else {'val/top1_error': error}
  return folder.publish(step, {'step': step, 'metrics': metrics}, keep)


def names(folder):
  return sorted(path.name for path in folder.path.iterdir())


def test_the_newest_and_the_best_are_kept(folder):
  for step, error in ((1, 9.0), (2, 4.0), (3, 4.0), (4, 5.0), (5, None), (6, 8.0)):
    assert publish(folder, step, error) == 10
  assert folder.steps() == [3, 5, 6]  # among equal errors, the later step is the best
  assert folder.ranked(folder.steps()) == [3, 6]
  assert names(folder) == ['3', '5', '6']


def test_files_that_cannot_be_removed_are_a_warning(folder, monkeypatch, caplog):
  """On NFS, a file that another program reads cannot be removed."""

  def fail(path):
    raise OSError(errno.ENOTEMPTY, 'busy', str(path))

  with monkeypatch.context() as patch:
    patch.setattr(shutil, 'rmtree', fail)
    for step in (1, 2, 3):
      publish(folder, step)
    folder.create()
  assert folder.steps() == [2, 3] and 'partial-removed-1 cannot be removed' in caplog.text
  folder.create()
  assert names(folder) == ['2', '3']


def test_a_checkpoint_that_cannot_be_read_now_is_kept(folder, monkeypatch, caplog):
  """A network disk may not answer for a while."""

  def fail(path):
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

  publish(folder, 1, 2.0)
  publish(folder, 2, 9.0)
  again = r'cannot be read now \(.+\): check its permissions .* run the same command again'
  with monkeypatch.context() as patch:
    patch.setattr(atomic_io, '_digest_of_file', fail)
    with pytest.raises(RunError, match=f'2 {again}'):
      folder.newest_whole()
  with monkeypatch.context() as patch:
    patch.setattr(atomic_io, 'facts', fail)
    publish(folder, 3, 5.0, keep=1)  # the best is not known
  assert names(folder) == ['1', '2', '3'] and 'no checkpoint is removed now' in caplog.text
  publish(folder, 4, 5.0, keep=1)
  assert names(folder) == ['1', '4']


def test_a_checkpoint_that_is_gone_is_not_damaged(folder, caplog):
  with pytest.raises(RunError, match='9 was replaced by the training that is running: run the'):
    folder.is_whole(9)
  assert 'damaged' not in caplog.text


def test_damaged_checkpoints_are_renamed(folder, caplog):
  publish(folder, 1)
  for _ in range(2):
    publish(folder, 2)
    (folder.path / '2' / 'data').write_bytes(bytes(9))
    assert folder.newest_whole() == 1
  assert names(folder) == ['1', '2.damaged', '2.damaged-1'] and folder.has_any()
  assert 'data has 9 of 10 bytes' in caplog.text
  folder.partial(3).mkdir()
  folder.create()
  assert names(folder) == ['1', '2.damaged', '2.damaged-1']


def test_read_only_renames_nothing(folder):
  publish(folder, 1)
  (folder.path / '1' / 'data').unlink()
  assert CheckpointFolder(folder.path, read_only=True).newest_whole() is None
  assert names(folder) == ['1']
