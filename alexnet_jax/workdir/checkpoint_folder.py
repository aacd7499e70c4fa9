"""The folder of checkpoints as files: which steps there are, which are whole, and which are removed.

A checkpoint is a folder named by its step, sealed by a manifest (`utils.atomic_io`). `partial-STEP` is one
that is being written or removed; `STEP.damaged` is one whose files failed their check.
"""

from collections.abc import Mapping, Sequence
import os
import pathlib
import shutil

from absl import logging

from alexnet_jax.utils import atomic_io

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

  def ranked(self, steps: Sequence[int]) -> list[int]:
    """Returns those of `steps` that have a validation error, the lowest first; of equals the later first."""
    errors = {}
    for step in steps:
      try:
        error = atomic_io.facts(self.path / str(step))['metrics'].get(_ERROR)
      except ValueError:
        continue
      if error is not None:
        errors[step] = error
    return sorted(errors, key=lambda step: (errors[step], -step))

  def is_whole(self, step: int) -> bool:
    """Returns whether the files of a checkpoint are those that were written.

    Logs a warning about a damaged one and renames it to `STEP.damaged`, unless the folder is read-only.
    """
    folder = self.path / str(step)
    try:
      atomic_io.check(folder)
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
    """Returns the newest step whose checkpoint is whole; None if there is none."""
    return next((step for step in reversed(self.steps()) if self.is_whole(step)), None)

  def partial(self, step: int) -> pathlib.Path:
    """Returns the path under which the checkpoint of `step` is written."""
    return self.path / f'{_PARTIAL}{step}'

  def publish(self, step: int, facts: Mapping, keep: int) -> int:
    """Seals the partial checkpoint of `step`, gives it its final name and removes superseded ones.

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
    final = self.path / str(step)
    if final.exists():  # a repeated step, because later checkpoints were damaged
      self._remove(final)
    self.partial(step).rename(final)
    atomic_io.sync(self.path)
    steps = self.steps()
    kept = {*steps[-keep:], *self.ranked(steps)[:1]}
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
