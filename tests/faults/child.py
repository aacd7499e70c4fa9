"""main.py with a fault inside: `python child.py FAULT PATH/main.py ARGS`.

`nan` turns one training image of one step to NaN on the device, as a failing device would: the step and the
row are in NAN_STEP and NAN_ROW. `power` notes in SYNC_LOG which files were synced, as they were then,
so that what a power cut would have taken can be taken afterwards.
"""

import os
import pathlib
import runpy
import sys


def poison() -> None:
  """Replaces `augment.train_images` by one that spoils an image."""
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


def note_syncs() -> None:
  """Lets `os.fsync` write down what it brought to the disk."""
  real, log = os.fsync, os.open(os.environ['SYNC_LOG'], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

  def fsync(descriptor):
    real(descriptor)
    found = os.fstat(descriptor)
    os.write(log, f'{found.st_ino} {found.st_size} {found.st_mtime_ns}\n'.encode())

  os.fsync = fsync


def cut_power(workdir: pathlib.Path, log: pathlib.Path) -> int:
  """Cuts every file to what was synced of it, which may be nothing; returns how many lost something."""
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
  fault, program, *args = sys.argv[1:]
  sys.path.insert(0, str(pathlib.Path(program).parent))
  {'nan': poison, 'power': note_syncs}[fault]()
  sys.argv = [program, *args]
  runpy.run_path(program, run_name='__main__')
