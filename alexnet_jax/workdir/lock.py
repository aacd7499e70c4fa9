"""Creates the folder of a run and locks it, so that only one run at a time uses it."""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import json
import os
import pathlib
import socket
import time

from absl import logging

from alexnet_jax.distributed import multihost
from alexnet_jax.errors import RunError, UserError
from alexnet_jax.utils import atomic_io

LOCK = 'lock'
_BUSY = (errno.EWOULDBLOCK, errno.EACCES)
# Several processes try to lock the workdir for so many seconds, with a pause between trials.
_PATIENCE, _PAUSE = 120, 5
# The errors for which another folder, or other permissions, are the remedy. All others may pass.
_MISTAKES = {
  errno.EACCES,
  errno.EEXIST,
  errno.EINVAL,
  errno.EISDIR,
  errno.ELOOP,
  errno.ENAMETOOLONG,
  errno.ENOENT,
  errno.ENOTDIR,
  errno.EPERM,
  errno.EROFS,
}


def make_workdir(workdir: pathlib.Path) -> None:
  """Creates the folder if it does not exist.

  Raises:
    UserError: it cannot be created.
    RunError: it cannot be created now, because the file system failed.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise _cannot_write(workdir, error) from None


def _cannot_write(workdir: pathlib.Path, error: OSError) -> UserError | RunError:
  problem = f'--workdir={workdir} cannot be written ({error.strerror})'
  if error.errno in _MISTAKES:
    return UserError(f'{problem}: choose another folder')
  remedy = atomic_io.REMEDIES.get(error.errno or 0, 'check its file system')
  return RunError(f'{problem}: {remedy}, then run the same command again')


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
  """Locks `workdir` for this run; of several processes that share a run, process 0 holds the lock.

  The kernel releases the lock when the process ends, however it ends, so a killed run blocks nobody. The lock
  file stays and names the last holder. Some network file systems do not pass locks on to other hosts, and
  some keep the lock of a lost host for a while. Several processes therefore try again for two minutes.

  Raises:
    UserError: another run holds the lock and this run has one process, or the folder cannot be written.
    RunError: the lock is still held after two minutes, or the file system failed.
  """
  with contextlib.ExitStack() as stack:
    error = _try_to_lock(workdir, stack) if multihost.is_primary() else None
    if problem := multihost.text_from_primary(str(error or '')):
      is_temporary = multihost.from_primary(isinstance(error, RunError))
      raise (RunError if is_temporary else UserError)(problem)
    yield


def _try_to_lock(workdir: pathlib.Path, stack: contextlib.ExitStack) -> UserError | RunError | None:
  """Locks `workdir` until `stack` closes; returns the error if it cannot. Several processes try again."""
  is_alone = multihost.share()[1] == 1
  deadline = time.monotonic() + _PATIENCE
  while True:
    error = _take_lock(workdir, stack, is_alone)
    if is_alone or not isinstance(error, RunError) or time.monotonic() > deadline:
      return error
    logging.log_first_n(logging.WARNING, '%s (trying for %d s)', 1, error, _PATIENCE)
    stack.close()
    time.sleep(_PAUSE)


def _take_lock(
  workdir: pathlib.Path, stack: contextlib.ExitStack, is_alone: bool
) -> UserError | RunError | None:
  """Locks the file until `stack` closes; returns the error if it cannot."""
  try:
    descriptor = os.open(workdir / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
  except OSError as error:
    return _cannot_write(workdir, error)
  file = stack.enter_context(os.fdopen(descriptor, 'r+'))
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    if error.errno not in _BUSY:  # this file system does not support locks
      logging.warning(
        '%s cannot be locked (%s): make sure that only one run at a time uses it',
        workdir,
        error.strerror,
      )
      return None
    problem = (
      f'--workdir={workdir} is in use by another run ({_holder(file.read())}): wait until it ends, stop it, '
      f'or choose another workdir; if its machine was lost, delete {workdir / LOCK}'
    )
    return UserError(problem) if is_alone else RunError(problem)
  file.truncate(0)
  holder = {'host': socket.gethostname(), 'pid': os.getpid(), 'since': time.strftime('%F %T %z')}
  with contextlib.suppress(OSError):  # the lock holds even if a full disk cannot store the name
    file.write(json.dumps(holder))
    file.flush()
  return None


def _holder(text: str) -> str:
  """Describes the holder that the lock file `text` names."""
  try:
    holder = json.loads(text)
    return f'host {holder["host"]}, process {holder["pid"]}, since {holder["since"]}'
  except (ValueError, KeyError, TypeError):  # it has not written its name yet
    return 'which has just started'
