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
from alexnet_jax.errors import UserError

LOCK = 'lock'
_BUSY = (errno.EWOULDBLOCK, errno.EACCES)


def make_workdir(workdir: pathlib.Path) -> None:
  """Creates the folder if it does not exist.

  Raises:
    UserError: it cannot be created.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(_cannot_write(workdir, error)) from None


def _cannot_write(workdir: pathlib.Path, error: OSError) -> str:
  return f'--workdir={workdir} cannot be written ({error.strerror}): choose another folder'


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
  """Locks `workdir` for this run; of several processes that share a run, process 0 holds the lock.

  The kernel releases the lock when the process ends, however it ends, so a killed run blocks nobody. The lock
  file stays and names the last holder. Some network file systems do not pass locks on to other hosts.

  Raises:
    UserError: another run holds the lock, or the folder cannot be written.
  """
  with contextlib.ExitStack() as stack:
    problem = _take_lock(workdir, stack) if multihost.is_primary() else ''
    if problem := multihost.text_from_primary(problem):
      raise UserError(problem)
    yield


def _take_lock(workdir: pathlib.Path, stack: contextlib.ExitStack) -> str:
  """Locks the file until `stack` closes; returns the reason if it cannot, else an empty text."""
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
      return ''
    return (
      f'--workdir={workdir} is in use by another run ({_holder(file.read())}): wait until it ends, stop it, '
      'or choose another workdir'
    )
  file.truncate(0)
  holder = {'host': socket.gethostname(), 'pid': os.getpid(), 'since': time.strftime('%F %T %z')}
  with contextlib.suppress(OSError):  # the lock holds even if a full disk cannot store the name
    file.write(json.dumps(holder))
    file.flush()
  return ''


def _holder(text: str) -> str:
  """Describes the holder that the lock file `text` names."""
  try:
    holder = json.loads(text)
    return f'host {holder["host"]}, process {holder["pid"]}, since {holder["since"]}'
  except (ValueError, KeyError, TypeError):  # it has not written its name yet
    return 'which has just started'
