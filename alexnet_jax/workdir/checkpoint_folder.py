"""The folder of checkpoints as files: which steps there are, which are whole, and which are removed.

A checkpoint is a folder named by its step, sealed by a manifest (`utils.atomic_io`). `partial-STEP` is one
that is being written or removed; `STEP.damaged` is one whose files failed their check.
"""

from collections.abc import Callable, Mapping, Sequence
import os
import pathlib
import shutil
from typing import TypeVar

from absl import logging

from alexnet_jax.errors import RunError
from alexnet_jax.utils import atomic_io

T = TypeVar('T')
_ERROR = 'val/top1_error'
_PARTIAL, _DAMAGED = 'partial-', '.damaged'


class CheckpointFolder:
  """The folder that holds the checkpoints of one run.

  Args:
    path: WORKDIR/checkpoints.
    read_only: create, rename and remove nothing.
  """

  def __init__(self, path: pathlib.Path, read_only: bool = False):
    self.path = path
    self._read_only = read_only

  def create(self) -> None:
    """Creates the folder and removes partial checkpoints, which a killed run left."""
    self.path.mkdir(parents=True, exist_ok=True)
    for left in self.path.glob(f'{_PARTIAL}*'):
      _remove_files(left)

  def steps(self) -> list[int]:
    """Returns the steps of all checkpoints that are not known to be damaged, ascending."""
    return sorted(int(path.name) for path in self.path.iterdir() if path.name.isdigit())

  def has_any(self) -> bool:
    """Returns whether there is a folder of a checkpoint, damaged or not."""
    return any(path.name.partition(_DAMAGED)[0].isdigit() for path in self.path.iterdir())

  def read(self, step: int, function: Callable[[pathlib.Path], T]) -> T:
    """Returns `function(folder)` for the folder of a checkpoint.

    Raises:
      OSError, ValueError, KeyError: the error of the function, if the checkpoint is damaged.
      RunError: the checkpoint cannot be read now, or is not there any more.
    """
    folder = self.path / str(step)
    try:
      return function(folder)
    except (OSError, ValueError, KeyError) as error:
      if isinstance(error, OSError) and not atomic_io.is_damage(error):
        raise RunError(
          f'the checkpoint {folder} cannot be read now ({error.strerror}): check its permissions and its '
          'file system, then run the same command again'
        ) from None
      if not folder.is_dir():
        raise RunError(
          f'the checkpoint {folder} was replaced by the training that is running: run the command again'
        ) from None
      raise

  def ranked(self, steps: Sequence[int]) -> list[int]:
    """Returns those of `steps` that have a validation error, the lowest first; of equals the later first.

    Raises:
      RunError: a checkpoint cannot be read now.
    """
    errors = {}
    for step in steps:
      try:
        error = self.read(step, atomic_io.facts)['metrics'].get(_ERROR)
      except ValueError:
        continue
      except RunError:
        if (self.path / str(step)).is_dir():
          raise
        continue  # the training that is running has removed it
      if error is not None:
        errors[step] = error
    return sorted(errors, key=lambda step: (errors[step], -step))

  def is_whole(self, step: int) -> bool:
    """Returns whether the files of a checkpoint are those that were written.

    Logs a warning about a damaged one and renames it to `STEP.damaged`, unless the folder is read-only.

    Raises:
      RunError: the checkpoint cannot be read now, or is not there any more.
    """
    folder = self.path / str(step)
    try:
      self.read(step, atomic_io.check)
      return True
    except ValueError as error:
      fate = 'it is ignored'
      if not self._read_only:
        aside = self._unused_name(step)
        folder.rename(aside)
        fate = f'it is kept as {aside.name}'
      logging.warning('the checkpoint %s is damaged (%s): %s', folder, error, fate)
      return False

  def newest_whole(self) -> int | None:
    """Returns the newest step whose checkpoint is whole; None if there is none.

    Raises:
      RunError: a checkpoint cannot be read now, or is not there any more.
    """
    return next((step for step in reversed(self.steps()) if self.is_whole(step)), None)

  def partial(self, step: int) -> pathlib.Path:
    """Returns the path under which the checkpoint of `step` is written."""
    return self.path / f'{_PARTIAL}{step}'

  def publish(self, step: int, facts: Mapping, keep: int) -> int:
    """Seals the partial checkpoint of `step`, gives it its final name and removes superseded ones.

    If a checkpoint cannot be read now, the next call removes them.

    Args:
      step: the step.
      facts: JSON-able; stored in the manifest.
      keep: number of newest checkpoints to keep; the best one is kept too.

    Returns:
      The bytes of its files.

    Raises:
      OSError: the disk is full or cannot be written.
    """
    size = atomic_io.seal(self.partial(step), facts)
    self.partial(step).rename(self.path / str(step))
    atomic_io.sync(self.path)
    steps = self.steps()
    try:
      best = self.ranked(steps)[:1]
    except RunError as error:
      logging.warning('no checkpoint is removed now, because the best is not known: %s', error)
      return size
    kept = {*steps[-keep:], *best}
    for superseded in kept.symmetric_difference(steps):
      self._remove(self.path / str(superseded))
    return size

  def _unused_name(self, step: int) -> pathlib.Path:
    """Returns `STEP.damaged`, or `STEP.damaged-N` if that exists."""
    aside = self.path / f'{step}{_DAMAGED}'
    for number in range(1, 1000):
      if not aside.exists():
        break
      aside = self.path / f'{step}{_DAMAGED}-{number}'
    return aside

  def _remove(self, folder: pathlib.Path) -> None:
    """Removes a checkpoint; a kill in between leaves a partial one, never one that looks whole."""
    doomed = folder.with_name(f'{_PARTIAL}removed-{folder.name}')
    os.rename(folder, doomed)
    _remove_files(doomed)


def _remove_files(folder: pathlib.Path) -> None:
  """Removes a folder, or warns: on NFS, files that another program reads cannot be removed."""
  try:
    shutil.rmtree(folder)
  except OSError as error:
    logging.warning('%s cannot be removed (%s): remove it by hand', folder, error)
