"""The folder of a run: made, locked, so that one run at a time is in it, and claimed for one config."""

from collections.abc import Iterator, Mapping
import contextlib
import errno
import fcntl
import json
import os
import pathlib
import socket
import time

from absl import logging
from ml_collections import FrozenConfigDict

from alexnet_jax import config as config_lib
from alexnet_jax.data import Dataset
from alexnet_jax.distributed import multihost
from alexnet_jax.errors import UserError
from alexnet_jax.utils import atomic_io

LOCK = 'lock'
_SHARED_WAIT = 20  # seconds that a network file system may take to show a file to all hosts
_BUSY = (errno.EWOULDBLOCK, errno.EACCES)


def make(workdir: pathlib.Path) -> None:
  """Makes the folder, if need be.

  Raises:
    UserError: it cannot be made.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(_cannot_write(workdir, error)) from None


def _cannot_write(workdir: pathlib.Path, error: OSError) -> str:
  return f'--workdir={workdir} cannot be written ({error.strerror}): choose another folder'


def claim(workdir: pathlib.Path, config: FrozenConfigDict, begun: bool) -> None:
  """Makes `workdir` this run's, or, where a run has begun there, checks that it is this one.

  Raises:
    UserError: another run has begun there, or the processes do not agree on config or folder.
  """
  path = workdir / config_lib.FILE
  if path.exists() and begun:
    config_lib.check_same_run(config_lib.load_workdir(workdir), config, workdir)
  text = config_lib.to_json(config)
  if not multihost.same_everywhere(text):
    raise UserError('the config is not the same on every process: give all the same command line')
  if multihost.is_primary():
    atomic_io.write(path, text)
  multihost.wait_for_all('config written')
  for _ in range(_SHARED_WAIT):
    if path.exists() and path.read_text() == text:
      return
    time.sleep(1)
  raise UserError(
    f'--workdir={workdir} is not the same folder on every process: use a file system that all share'
  )


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
  """Holds `workdir` for this run; of several processes, which share a run, the first one does.

  The kernel lets go of the lock when the process ends, however it ends: a killed run blocks nobody. The file
  stays, with who held it last. Not on all network file systems do locks reach other hosts.

  Raises:
    UserError: another run holds it, or the folder cannot be written.
  """
  with contextlib.ExitStack() as held:
    refusal = _take(workdir, held) if multihost.is_primary() else ''
    if refusal := multihost.text_from_primary(refusal):
      raise UserError(refusal)
    yield


def _take(workdir: pathlib.Path, held: contextlib.ExitStack) -> str:
  """Locks the file until `held` ends; returns why it could not."""
  try:
    file = held.enter_context(
      os.fdopen(os.open(workdir / LOCK, os.O_RDWR | os.O_CREAT, 0o666), 'r+')
    )
  except OSError as error:
    return _cannot_write(workdir, error)
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    if error.errno not in _BUSY:  # a file system without locks
      logging.warning(
        '%s cannot be locked (%s): see to it that one run at a time uses it',
        workdir,
        error.strerror,
      )
      return ''
    return (
      f'--workdir={workdir} is in use by another run ({_holder(file.read())}): wait for it or stop it, or '
      'choose another workdir'
    )
  file.truncate(0)
  holder = {'host': socket.gethostname(), 'pid': os.getpid(), 'since': time.strftime('%F %T %z')}
  with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
    file.write(json.dumps(holder))
    file.flush()
  return ''


def _holder(text: str) -> str:
  try:
    holder = json.loads(text)
    return f'host {holder["host"]}, process {holder["pid"]}, since {holder["since"]}'
  except (ValueError, KeyError, TypeError):  # it has not written its name yet
    return 'which has just begun'


def check_same_data(
  workdir: pathlib.Path, config: FrozenConfigDict, dataset: Dataset, meta: Mapping
) -> None:
  """Raises UserError where the images are not those that a checkpoint with this `meta` was trained on."""
  here = {
    'classes': list(dataset.class_names),
    'training images': dataset.num_train,
    'validation images': dataset.num_validation,
  }
  there = {
    'classes': meta['class_names'],
    'training images': meta['num_train'],
    'validation images': meta['num_validation'],
  }
  changed = [
    f'{key}: {there[key]} there, {here[key]} here' for key in here if here[key] != there[key]
  ] or dataset.changed_since(meta.get('checksums', {}))
  if changed:
    raise UserError(
      f'the images of {config.data.source} are not those that {workdir} was trained on '
      f'({"; ".join(changed)}): restore them, or choose another workdir'
    )
