"""Image files as batches of canvases."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
import glob
import os
import pathlib
import sys

import numpy as np
from tqdm import tqdm

from alexnet_jax.data import Canvas, decode_canvas
from alexnet_jax.data.sources import SUFFIXES
from alexnet_jax.errors import UserError


def find_images(patterns: Sequence[str]) -> list[str]:
  """Returns the image files that `--images` names, without duplicates.

  Args:
    patterns: files, folders and globs. A folder means all images in it and in its subfolders, sorted
      by path.

  Raises:
    UserError: a pattern matches nothing.
  """
  paths: dict[str, None] = {}
  for pattern in filter(None, patterns):
    if os.path.isdir(pattern):
      files = sorted(pathlib.Path(pattern).rglob('*'))
      found = [str(path) for path in files if path.name.lower().endswith(SUFFIXES)]
    elif os.path.exists(pattern):
      found = [pattern]
    else:
      found = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    if not found:
      problem = 'the folder has no images' if os.path.isdir(pattern) else 'there is no such image'
      raise UserError(f'--images={pattern}: {problem}; name files, folders or a glob')
    paths.update(dict.fromkeys(found))
  if not paths:
    raise UserError('--images is empty: name files, folders or a glob')
  return list(paths)


class Reader:
  """Iterates over image files as batches of canvases, and skips those that cannot be read.

  An iteration yields the paths of n images and their canvases, uint8 `[B, C, C, 3]`, which are zero
  after the first n.

  Args:
    paths: the image files.
    canvas: how an image becomes a canvas of C x C pixels.
    batch_size: B.

  Attributes:
    skipped: `{'path', 'reason'}` of each file that was skipped so far.
  """

  def __init__(self, paths: Sequence[str], canvas: Canvas, batch_size: int):
    self._paths, self._canvas, self._batch_size = paths, canvas, batch_size
    self.skipped: list[dict[str, str]] = []

  def _read(self, path: str) -> np.ndarray | str:
    """Returns the canvas of a file, or the reason why it cannot be read."""
    try:
      return decode_canvas(pathlib.Path(path).read_bytes(), self._canvas)
    except (OSError, ValueError) as error:
      return ' '.join(str(error).split())

  def __iter__(self) -> Iterator[tuple[list[str], np.ndarray]]:
    size = self._canvas.size
    with (
      ThreadPoolExecutor() as pool,
      tqdm(total=len(self._paths), unit='image', disable=None) as bar,
    ):
      for start in range(0, len(self._paths), self._batch_size):
        chunk = self._paths[start : start + self._batch_size]
        canvases = np.zeros((self._batch_size, size, size, 3), np.uint8)
        good = []
        for path, canvas in zip(chunk, pool.map(self._read, chunk), strict=True):
          if isinstance(canvas, str):
            self.skipped.append({'path': path, 'reason': canvas})
            tqdm.write(f'skipping {path}: {canvas}', file=sys.stderr)
          else:
            canvases[len(good)] = canvas
            good.append(path)
        if good:
          yield good, canvases
        bar.update(len(chunk))
