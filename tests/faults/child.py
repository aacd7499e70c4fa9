"""Runs main.py with injected faults: `python child.py FAULT[,FAULT] PATH/main.py ARGS`.

The fault `nan` turns one training image of one step to NaN on the device, as failing hardware would. The
environment variables NAN_STEP and NAN_ROW name the step and the row. The fault `power` records in the file
SYNC_LOG which files were synced and their sizes at that time. `cut_power` can later remove all other data.
The fault `hold` makes the run wait for ever after the step HOLD_STEP, where no evaluation is due, so that it
can be killed there.
"""

import os
import pathlib
import runpy
import sys


def poison() -> None:
  """Makes `augment.train_images` return NaN for one image of one step."""
  import jax.numpy as jnp

  from alexnet_jax.steps import augment

  real, step_of, row_of = (
    augment.train_images,
    int(os.environ['NAN_STEP']),
    int(os.environ['NAN_ROW']),
  )

  def poisoned(canvases, rows, seed_key, step, *rest):
    images = real(canvases, rows, seed_key, step, *rest)
    hit = (step == step_of) & (rows == row_of)
    return jnp.where(hit[:, None, None, None], jnp.nan, images)

  augment.train_images = poisoned


def hold() -> None:
  """Makes the run wait for ever after it has logged a step. A checkpoint that has begun is still written."""
  import threading

  from alexnet_jax.training import hooks

  real, last = hooks.Save.due, int(os.environ['HOLD_STEP'])

  def due(self, step):
    if step == last:
      threading.Event().wait()
    return real(self, step)

  hooks.Save.due = due


def record_syncs() -> None:
  """Makes `os.fsync` record the inode, size and time of every file that it syncs."""
  real, log = os.fsync, os.open(os.environ['SYNC_LOG'], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

  def fsync(descriptor):
    real(descriptor)
    found = os.fstat(descriptor)
    os.write(log, f'{found.st_ino} {found.st_size} {found.st_mtime_ns}\n'.encode())

  os.fsync = fsync


def cut_power(workdir: pathlib.Path, log: pathlib.Path) -> int:
  """Truncates every file to its synced size, and returns the number of truncated files.

  A file that was never synced becomes empty.
  """
  synced, sizes = set(), {}
  for line in log.read_text().splitlines() if log.exists() else ():
    inode, size, time = map(int, line.split())
    synced.add((inode, size, time))
    sizes[inode] = size
  lost = 0
  for path in filter(pathlib.Path.is_file, workdir.rglob('*')):
    found = path.stat()
    if found.st_size and (found.st_ino, found.st_size, found.st_mtime_ns) not in synced:
      os.truncate(path, min(found.st_size, sizes.get(found.st_ino, 0)))
      lost += 1
  return lost


if __name__ == '__main__':
  faults, program, *args = sys.argv[1:]
  sys.path.insert(0, str(pathlib.Path(program).parent))
  for fault in faults.split(','):
    {'nan': poison, 'power': record_syncs, 'hold': hold}[fault]()
  sys.argv = [program, *args]
  runpy.run_path(program, run_name='__main__')
