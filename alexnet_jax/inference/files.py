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


def find_images(places: Sequence[str]) -> list[str]:
  """The image files that `--images` names, each once.

  Args:
    places: files, folders (all images in them and below, sorted by path) and globs.

  Raises:
    UserError: one of them names nothing.
  """
  paths: dict[str, None] = {}
  for place in filter(None, places):
    if os.path.isdir(place):
      found = [
        str(p) for p in sorted(pathlib.Path(place).rglob('*')) if p.name.lower().endswith(SUFFIXES)
      ]
    elif os.path.exists(place):
      found = [place]
    else:
      found = sorted(p for p in glob.glob(place, recursive=True) if os.path.isfile(p))
    if not found:
      what = 'a folder without images' if os.path.isdir(place) else 'there is no such image'
      raise UserError(f'--images={place}: {what}: name files, folders or a glob')
    paths.update(dict.fromkeys(found))
  if not paths:
    raise UserError('--images names nothing: name files, folders or a glob')
  return list(paths)


class Reader:
  """Image files as batches of canvases; notes those that cannot be read.

  Attributes:
    skipped: `{'path', 'reason'}` of each so far.
  """

  def __init__(self, paths: Sequence[str], canvas: Canvas, batch_size: int):
    self._paths, self._canvas, self._batch_size = paths, canvas, batch_size
    self.skipped: list[dict[str, str]] = []

  def _read(self, path: str) -> np.ndarray | str:
    """The canvas of a file, or why there is none."""
    try:
      return decode_canvas(pathlib.Path(path).read_bytes(), self._canvas)
    except (OSError, ValueError) as error:
      return ' '.join(str(error).split())

  def __iter__(self) -> Iterator[tuple[list[str], np.ndarray]]:
    """Paths, n of them, and uint8 `[B, C, C, 3]`, zeros after the first n."""
    size, done = self._canvas.size, 0
    with (
      ThreadPoolExecutor() as pool,
      tqdm(total=len(self._paths), unit='image', disable=None) as bar,
    ):
      while done < len(self._paths):
        chunk = self._paths[done : done + self._batch_size]
        done += len(chunk)
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
