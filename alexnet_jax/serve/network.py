"""A trained network for the page: classes of an image, nearest images, and the first kernels."""

import io
import threading
from typing import Any
import zipfile

import jax
from ml_collections import ConfigDict
import numpy as np
from PIL import Image

from alexnet_jax.data import decode_canvas
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import loading
from alexnet_jax.inference.classifier import Classifier, most_probable
from alexnet_jax.report.neighbours import Index

_NEIGHBOURS = 6
_KERNELS_PER_ROW = 16  # the 48 kernels of a tower in the paper fill three rows
_SCALE = 5  # screen pixels per kernel pixel
_GAP = 1  # kernel pixels between two kernels
_QUALITY = 90  # JPEG quality


class Features:
  """The features of image files, as `--mode=features --images=` wrote them.

  Args:
    path: the .npz file.
    step: step of the checkpoint that is served.

  Attributes:
    layer: the layer of the features.
    paths: the image files.

  Raises:
    UserError: the file cannot be read, holds the features of a split, which has no image files, or
      belongs to another checkpoint.
  """

  def __init__(self, path: str, step: int):
    try:
      with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
      raise UserError(f'--features={path} cannot be read ({error}): name an .npz file') from None
    missing = sorted({'features', 'paths', 'layer', 'checkpoint'} - arrays.keys())
    if missing:
      raise UserError(
        f'--features={path} has no {", ".join(missing)}: write it with --mode=features --images='
      )
    if int(arrays['checkpoint']) != step:
      raise UserError(
        f'--features={path} belongs to checkpoint {arrays["checkpoint"]}, but checkpoint {step} is '
        'served: write it again'
      )
    self.layer = str(arrays['layer'])
    self.paths = [str(name) for name in arrays['paths']]
    self._index = Index(arrays['features'].reshape(len(self.paths), -1))

  def nearest(self, vector: np.ndarray) -> list[tuple[int, float]]:
    """Returns (index, Euclidean distance) of the features nearest to `vector`, float32 `[D]`, in order."""
    indices, distances = self._index.nearest(vector[None], _NEIGHBOURS)
    return list(zip(indices[0].tolist(), distances[0].tolist(), strict=True))


class Network:
  """A checkpoint on one device that classifies one image at a time; safe to call from several threads.

  Args:
    config: `eval` and `serve` are used.
    workdir: folder of the run, or a .safetensors file.
    which: the checkpoint: best, latest or a step.
    features: an .npz file of `--mode=features`, or ''.

  Attributes:
    features: the `Features`, or None.

  Raises:
    UserError: there is no such checkpoint, or the features belong to another one.
  """

  def __init__(self, config: ConfigDict, workdir: str, which: str = 'best', features: str = ''):
    values = config.to_dict()
    values['eval']['batch_size'] = 1
    self._trained = loading.load_alone(workdir, which, ConfigDict(values))
    self._classifier = Classifier(self._trained)
    canvas = self._classifier.canvas
    max_pixels = min(canvas.max_pixels, config.serve.max_pixels)
    self._canvas = canvas._replace(max_pixels=max_pixels)
    self._lock = threading.Lock()
    self.features = Features(features, self._trained.step) if features else None
    size = canvas.size
    self.classify(np.zeros((size, size, 3), np.uint8))  # compile before the first request

  def about(self) -> dict[str, Any]:
    """Returns a description of the network for the page."""
    config = self._trained.config
    return {
      'recipe': config.recipe,
      'checkpoint': self._trained.step,
      'weights': config.eval.weights,
      'views': config.eval.views,
      'classes': len(self._classifier.labels),
      'max_pixels': self._canvas.max_pixels,
      'exif_orientation': self._canvas.exif_orientation,
      'neighbours_among': len(self.features.paths) if self.features else 0,
    }

  def decode(self, data: bytes) -> np.ndarray:
    """Decodes an image file to its canvas, uint8 `[C, C, 3]`.

    Raises:
      ValueError: the image cannot be decoded, or is too large.
    """
    return decode_canvas(data, self._canvas)

  def classify(self, canvas: np.ndarray) -> dict[str, Any]:
    """Classifies a canvas, uint8 `[C, C, 3]`, and finds its nearest images.

    Returns:
      `{'top': [{'label', 'probability'}, ...], 'neighbours': [{'index', 'name', 'distance'}, ...]}`,
      where `index` is the position of the image in the features.
    """
    classifier, image = self._classifier, canvas[None]
    with self._lock:
      (row,) = classifier.classify(image)
      found: dict[str, Any] = {'top': most_probable(row, classifier.labels)}
      found['neighbours'] = []
      if self.features:
        vector = classifier.activations(image, self.features.layer)
        for index, distance in self.features.nearest(vector.reshape(-1)):
          name = self.features.paths[index].rpartition('/')[2]
          found['neighbours'].append({'index': index, 'name': name, 'distance': distance})
    return found

  def neighbour(self, index: int) -> bytes:
    """Returns the canvas of an image of the features, as JPEG.

    Raises:
      IndexError: there is no such image.
      OSError: the file cannot be read.
      ValueError: the image cannot be decoded.
    """
    if not self.features or not 0 <= index < len(self.features.paths):
      raise IndexError(index)
    with open(self.features.paths[index], 'rb') as file:
      return _encoded(self.decode(file.read()), 'JPEG', quality=_QUALITY)

  def kernels(self) -> bytes:
    """Returns the kernels of the first layer as PNG, by tower, each scaled to its own range around grey."""
    layer = self._trained.config.model.layers[0]
    kernel = np.asarray(jax.device_get(self._trained.model.params[layer]['kernel']))
    towers, size, _, channels, maps = kernel.shape
    tiles = kernel.transpose(0, 4, 1, 2, 3).reshape(towers * maps, size, size, channels)
    tiles = 0.5 + 0.5 * tiles / np.maximum(np.abs(tiles).max((1, 2, 3), keepdims=True), 1e-12)
    columns = min(_KERNELS_PER_ROW, len(tiles))
    rows, step = -(-len(tiles) // columns), size + _GAP
    sheet = np.ones((rows * step - _GAP, columns * step - _GAP, channels))
    for i, tile in enumerate(tiles):
      top, left = i // columns * step, i % columns * step
      sheet[top : top + size, left : left + size] = tile
    sheet = sheet.repeat(_SCALE, 0).repeat(_SCALE, 1)
    return _encoded(np.round(255 * sheet).astype(np.uint8), 'PNG')


def _encoded(pixels: np.ndarray, form: str, **options: Any) -> bytes:
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, form, **options)
  return file.getvalue()
