"""Pictures of single images for the page: embedded, with their class and the name of their file."""

import base64
from collections.abc import Sequence
import io
import math
import os
import pathlib

import numpy as np
from PIL import Image

from alexnet_jax.data import Dataset
from alexnet_jax.report import kernels, mistakes

_MAX_SIDE = 256  # largest side of a picture, in pixels
_PIXELATED = 64  # pictures of at most this side are enlarged without smoothing
BARS = 5  # largest number of probable classes of an image
_LEAST = 0.0005  # smallest probability of a class from the third on; less is shown as 0.0 %
_KERNELS_WIDTH = 480  # smallest width of the picture of a tower's kernels, in pixels


class Pictures:
  """Makes pictures of the images of a data set.

  Args:
    dataset: the open data set.
    source: its `config.data.source`. The names of files begin below the folder that it names.
    labels: names of the classes.
  """

  def __init__(self, dataset: Dataset, source: str, labels: Sequence[str]):
    self._dataset, self._labels = dataset, labels
    self._root = f'{pathlib.Path(source.partition(":")[2]).expanduser()}/'

  def canvas(self, split: str, index: int) -> np.ndarray:
    """Returns an image as the network is given it before augmentation, uint8 `[S, S, 3]`."""
    return self._dataset.canvases(split, [int(index)])[0]

  def name(self, split: str, index: int) -> str:
    """Returns the name of an image: the path of its file below the source, if it has one."""
    name = self._dataset.name(split, int(index)).removeprefix(self._root)
    return os.fsencode(name).decode('utf-8', 'replace')  # a file name need not be UTF-8

  def of(self, split: str, index: int, label: int) -> dict[str, object]:
    """Returns `src`, `alt`, `label`, `file` and `is_small` (whether to enlarge it without smoothing)."""
    image = Image.fromarray(self.canvas(split, index))
    is_small = max(image.size) <= _PIXELATED
    image.thumbnail((_MAX_SIDE, _MAX_SIDE))
    kind, file = 'training' if split == 'train' else split, self.name(split, index)
    return {
      'src': data_uri(image, 'PNG' if is_small else 'JPEG'),
      'label': self._labels[label],
      'file': file,
      'alt': f'{kind} image {file}: {self._labels[label]}',
      'is_small': is_small,
    }

  def card(self, predictions: mistakes.Predictions, at: int) -> dict[str, object]:
    """Returns a validation image, as `of` does, with its two to five most probable classes.

    If its own class is not among them, it takes the last place.

    Args:
      predictions: those of all validation images, with the `BARS` most probable classes.
      at: the position of the image in `predictions`.

    Returns:
      Also `bars` (`label`, `percent` and `right` of each class), `is_right` and `loss`.
    """
    label, index, own, best, top = (values[at] for values in predictions)
    shares = dict(zip(best.tolist(), top.tolist(), strict=True))
    if label not in shares:
      shares.popitem()
      shares[int(label)] = float(own)
    bars = [
      {'label': self._labels[k], 'percent': 100 * share, 'right': bool(k == label)}
      for i, (k, share) in enumerate(shares.items())
      if i < 2 or k == label or share >= _LEAST
    ]
    more = {'bars': bars, 'is_right': bars[0]['right'], 'loss': float(mistakes.losses(own))}
    return self.of('validation', index, label) | more


def of_kernels(kernel: np.ndarray) -> list[dict[str, str]]:
  """Returns one picture of the kernels of each tower.

  Args:
    kernel: float `[towers, size, size, 1 or 3, maps]`.
  """
  pictures = []
  for number, tower in enumerate(kernel, 1):
    image = Image.fromarray(kernels.picture(tower))
    scale = max(1, math.ceil(_KERNELS_WIDTH / image.width))
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    size, maps = tower.shape[0], tower.shape[-1]
    where = f', tower {number}' if len(kernel) > 1 else ''
    alt = f'{maps} kernels of {size}x{size} pixels{where}'
    pictures.append({'src': data_uri(image, 'PNG'), 'alt': alt})
  return pictures


def columns(number: int) -> int:
  """Returns how many cards to put in a row of a wide page, so that none is alone in the last row."""
  return next((c for c in (4, 3, 5) if number % c != 1), 4) if number > 4 else max(number, 2)


def data_uri(image: Image.Image, form: str) -> str:
  """Returns a data: address with the image as `JPEG` or `PNG`."""
  stream = io.BytesIO()
  image.save(stream, form, **({'quality': 82} if form == 'JPEG' else {'optimize': True}))
  return f'data:image/{form.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}'
