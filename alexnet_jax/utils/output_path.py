"""Checks the file that a command will write, before the command does any work."""

from collections.abc import Sequence
import os
import pathlib

from alexnet_jax.errors import UserError


def check(path: str, suffixes: Sequence[str] = (), flag: str = '--output') -> pathlib.Path:
  """Returns the path of a file to write, and creates its folder if there is none.

  Args:
    path: the value of the flag.
    suffixes: the allowed endings, such as `.csv`, in small letters; empty for any ending.
    flag: the flag that names the file, for messages.

  Raises:
    UserError: the name has another ending, it is the name of a folder, or it cannot be written.
  """
  target = pathlib.Path(path)
  folder = target.absolute().parent
  if suffixes and not path.lower().endswith(tuple(suffixes)):
    raise UserError(f'{flag}={path}: use a name that ends in {" or ".join(suffixes)}')
  if target.is_dir():
    raise UserError(f'{flag}={path} is a folder: name a file')
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(
      f'{flag}={path}: its folder cannot be made ({error.strerror}): name another one'
    ) from None
  # The file will be written beside the target and will then take its place, so its folder changes too.
  for written in (folder, target) if target.exists() else (folder,):
    if not os.access(written, os.W_OK):
      raise UserError(f'{flag}={path}: {written} cannot be written: name another file')
  return target
