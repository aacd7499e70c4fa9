"""One trained network, held ready: the classes of an image, its nearest neighbours, and the first kernels."""

import io
import threading
from typing import Any
import zipfile

import jax
from ml_collections import ConfigDict
import numpy as np
from PIL import Image

from alexnet_jax.data import Canvas, decode_canvas
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import evaluate
from alexnet_jax.inference import features as features_lib
from alexnet_jax.inference import predict
from alexnet_jax.report.neighbours import Index

_NEIGHBOURS = 6
_KERNELS = 16  # in a row of their picture; the paper's 48 of a tower fill three
_SCALE = 5  # screen pixels of a kernel's pixel
_GAP = 1  # pixels between kernels
_QUALITY = 90  # of JPEG


class Features:
  """The vectors that `--mode=features` wrote of image files.

  Args:
    path: an .npz file of it.
    step: the checkpoint that is served.

  Attributes:
    layer: of the vectors.
    paths: the image files.

  Raises:
    UserError: it cannot be read, is of a split (whose images have no files), or of another checkpoint.
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
        f'--features={path} has no {", ".join(missing)}: make it with --mode=features --images='
      )
    if int(arrays['checkpoint']) != step:
      raise UserError(
        f'--features={path} is of checkpoint {arrays["checkpoint"]}, served is {step}: make it anew'
      )
    self.layer = str(arrays['layer'])
    self.paths = [str(name) for name in arrays['paths']]
    self._index = Index(arrays['features'].reshape(len(self.paths), -1))

  def nearest(self, vector: np.ndarray) -> list[tuple[int, float]]:
    """Places of the vectors nearest to one, float32 `[D]`, and Euclidean distances, the nearest first."""
    places, distances = self._index.nearest(vector[None], _NEIGHBOURS)
    return list(zip(places[0].tolist(), distances[0].tolist(), strict=True))


class Network:
  """A checkpoint on one device, for one image at a time; safe to call from several threads.

  Args:
    config: whose `eval` and `serve` are used.
    workdir: of the run.
    which: checkpoint: best, latest or a step.
    features: an .npz file of `--mode=features`, or ''.

  Raises:
    UserError: no such checkpoint, or the features do not fit it.
  """

  def __init__(self, config: ConfigDict, workdir: str, which: str = 'best', features: str = ''):
    values = config.to_dict()
    values['eval']['batch_size'] = 1
    self._trained = evaluate.load_alone(workdir, which, ConfigDict(values))
    self._labels = predict.class_labels(self._trained)
    canvas = Canvas.from_config(self._trained.config.data.canvas)
    most = min(canvas.max_pixels, config.serve.max_pixels)
    self._canvas = canvas._replace(max_pixels=most)
    self._lock = threading.Lock()
    self.features = Features(features, self._trained.step) if features else None
    if self.features:
      self._function = features_lib.feature_function(self._trained.config, self.features.layer)
    size = canvas.size
    self._answer(np.zeros((size, size, 3), np.uint8))  # compiles, so that nobody waits for it

  def about(self) -> dict[str, Any]:
    """What the page says of the network."""
    config = self._trained.config
    return {
      'recipe': config.recipe,
      'checkpoint': self._trained.step,
      'weights': config.eval.weights,
      'views': config.eval.views,
      'classes': len(self._labels),
      'max_pixels': self._canvas.max_pixels,
      'neighbours_among': len(self.features.paths) if self.features else 0,
    }

  def answer(self, data: bytes) -> dict[str, Any]:
    """What the network makes of an image.

    Returns:
      `{'top': [{'label', 'probability'}, ...], 'neighbours': [{'place', 'name', 'distance'}, ...]}`.

    Raises:
      ValueError: the image cannot be decoded, or is too large.
    """
    return self._answer(decode_canvas(data, self._canvas))

  def _answer(self, canvas: np.ndarray) -> dict[str, Any]:
    model, image = self._trained.model, canvas[None]
    with self._lock:
      row = model.predict(model.params, model.batch_stats, image, model.mean_image)
      found: dict[str, Any] = {'top': predict.likeliest(np.asarray(row)[0], self._labels)}
      found['neighbours'] = []
      if self.features:
        variables = {'params': model.params, 'batch_stats': model.batch_stats}
        vector = np.asarray(self._function(variables, model.mean_image, image), np.float32)
        for place, distance in self.features.nearest(vector.reshape(-1)):
          name = self.features.paths[place].rpartition('/')[2]
          found['neighbours'].append({'place': place, 'name': name, 'distance': distance})
    return found

  def neighbour(self, place: int) -> bytes:
    """The canvas of an image among the features, as JPEG; raises OSError, ValueError or IndexError."""
    if not self.features or not 0 <= place < len(self.features.paths):
      raise IndexError(place)
    with open(self.features.paths[place], 'rb') as file:
      return _encoded(decode_canvas(file.read(), self._canvas), 'JPEG', quality=_QUALITY)

  def kernels(self) -> bytes:
    """The first layer's kernels as PNG, tower after tower, each stretched to its own range around grey."""
    layer = self._trained.config.model.layers[0]
    kernel = np.asarray(jax.device_get(self._trained.model.params[layer]['kernel']))
    towers, size, _, channels, maps = kernel.shape
    tiles = kernel.transpose(0, 4, 1, 2, 3).reshape(towers * maps, size, size, channels)
    tiles = 0.5 + 0.5 * tiles / np.maximum(np.abs(tiles).max((1, 2, 3), keepdims=True), 1e-12)
    columns = min(_KERNELS, len(tiles))
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
