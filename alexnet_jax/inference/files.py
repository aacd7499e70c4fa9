"""Image files as batches of canvases."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
import glob
import os
import pathlib
import sys
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from alexnet_jax.data import Canvas, decode_canvas
from alexnet_jax.data.sources import SUFFIXES
from alexnet_jax.errors import UserError


def find_images(patterns: Sequence[str]) -> list[str]:
  """Returns the image files that `--images` names, without duplicates.

  Args:
    patterns: files, folders and globs. A folder means all images in it and in its subfolders, sorted
      by path, but for hidden files and those in hidden folders. Links to folders are followed.

  Raises:
    UserError: a pattern matches nothing.
  """
  paths: dict[str, None] = {}
  for pattern in filter(None, patterns):
    if os.path.isdir(pattern):
      found = _images_below(pattern)
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


def _images_below(folder: str) -> list[str]:
  """Returns the image files of a folder and its subfolders, sorted by path."""
  found: list[pathlib.Path] = []
  visited: set[str] = set()  # a link may lead back to a folder that contains it
  starts = [folder]  # and links, which come later, so that a folder keeps its own name
  while starts:
    for root, folders, names in os.walk(starts.pop(0)):
      real = os.path.realpath(root)
      if real in visited:
        folders.clear()
        continue
      visited.add(real)
      folders[:] = sorted(name for name in folders if not name.startswith('.'))
      starts += [link for name in folders if os.path.islink(link := os.path.join(root, name))]
      visible = (name for name in names if not name.startswith('.'))
      found += [pathlib.Path(root, n) for n in visible if n.lower().endswith(SUFFIXES)]
  return list(map(str, sorted(found)))


class Decoded(NamedTuple):
  """An image that was read before.

  Attributes:
    canvas: what `read` returned.
  """

  canvas: np.ndarray | str


def read(image: Any, canvas: Canvas) -> np.ndarray | str:
  """Returns the canvas of an image, uint8 `[C, C, 3]`, or the reason why it cannot be read.

  Args:
    image: as for `Reader`.
    canvas: how the image becomes a canvas.
  """
  if isinstance(image, Decoded):
    return image.canvas
  try:
    if isinstance(image, str | os.PathLike):
      image = pathlib.Path(image).read_bytes()
    elif not isinstance(image, Image.Image):
      image = np.asarray(image)
    return decode_canvas(image, canvas)
  except (OSError, ValueError) as error:
    return ' '.join(str(error).split())


class Reader:
  """Iterates over images as batches of canvases, and skips those that cannot be read.

  An iteration yields n of the images and their canvases, uint8 `[B, C, C, 3]`, which are zero after the
  first n.

  Args:
    images: paths of files, PIL images, pixels, uint8 `[H, W, 3]` or `[H, W]`, or `Decoded` images.
    canvas: how an image becomes a canvas of C x C pixels.
    batch_size: B.
    strict: raise UserError for an image that cannot be read, and show no progress.

  Attributes:
    skipped: `{'path', 'reason'}` of each file that was skipped so far.
  """

  def __init__(self, images: Sequence[Any], canvas: Canvas, batch_size: int, strict: bool = False):
    self._images, self._canvas, self._batch_size = images, canvas, batch_size
    self._strict = strict
    self.skipped: list[dict[str, str]] = []

  def __iter__(self) -> Iterator[tuple[list, np.ndarray]]:
    size = self._canvas.size
    with (
      ThreadPoolExecutor() as pool,
      tqdm(total=len(self._images), unit='image', disable=self._strict or None) as bar,
    ):
      for start in range(0, len(self._images), self._batch_size):
        chunk = self._images[start : start + self._batch_size]
        canvases = np.zeros((self._batch_size, size, size, 3), np.uint8)
        good = []
        # Two threads must not load the same PIL image at once.
        distinct = {id(image): image for image in chunk}
        results = pool.map(lambda image: read(image, self._canvas), distinct.values())
        found = dict(zip(distinct, results, strict=True))
        for number, path in enumerate(chunk):
          canvas = found[id(path)]
          if isinstance(canvas, str):
            if self._strict:
              name = path if isinstance(path, str | os.PathLike) else f'image {start + number}'
              raise UserError(f'{name} cannot be read ({canvas}): leave it out')
            self.skipped.append({'path': path, 'reason': canvas})
            tqdm.write(f'skipping {path}: {canvas}', file=sys.stderr)
          else:
            canvases[len(good)] = canvas
            good.append(path)
        if good:
          yield good, canvases
        bar.update(len(chunk))
