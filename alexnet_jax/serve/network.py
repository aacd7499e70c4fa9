"""A trained network for the page: classes of an image, nearest images, kernels and activations."""

import base64
from collections.abc import Sequence
import io
import pathlib
import re
import threading
from typing import Any
import zipfile

import jax
from ml_collections import ConfigDict
import numpy as np
from PIL import Image

from alexnet_jax.data import decode_canvas
from alexnet_jax.errors import RunError, UserError
from alexnet_jax.evaluation import loading
from alexnet_jax.inference.classifier import Classifier, Prediction, most_probable
from alexnet_jax.models import spec
from alexnet_jax.report import kernels as kernels_lib
from alexnet_jax.report.neighbours import Index
from alexnet_jax.serve import about as about_lib
from alexnet_jax.serve import examples as examples_lib

# An answer is called unsure if the most probable class has less than this probability, or if its
# probability exceeds that of the second by less than this margin.
UNSURE_PROBABILITY = 0.5
UNSURE_MARGIN = 0.2
_NEIGHBOURS = 6
_QUALITY = 90  # JPEG quality
# The scans of a JPEG. Programs write about 20 at most, and an empty one takes 0.1 s for a large image.
_MAX_SCANS = 50
# The markers of a JPEG: of its segments (in coded pixels, FF is followed by 0), of a scan, and of the end.
_SEGMENT = re.compile(rb'\xff[^\x00\x01\xd0-\xd8\xff]')
_SCAN, _END = b'\xff\xda', b'\xff\xd9'


def is_unsure(top: Sequence[Prediction]) -> bool:
  """Returns whether an answer is called unsure, given the most probable classes in order."""
  first, second = (top[i]['probability'] if i < len(top) else 0.0 for i in (0, 1))
  return first < UNSURE_PROBABILITY or first - second < UNSURE_MARGIN


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

  def __init__(self, path: str, trained: loading.Trained):
    try:
      with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    except (TypeError, OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
      raise UserError(f'--features={path} cannot be read ({error}): name an .npz file') from None
    missing = sorted({'features', 'paths', 'layer', 'checkpoint'} - arrays.keys())
    if missing:
      raise UserError(
        f'--features={path} has no {", ".join(missing)}: write it with --mode=features --images='
      )
    if int(arrays['checkpoint']) != trained.step:
      raise UserError(
        f'--features={path} belongs to checkpoint {arrays["checkpoint"]}, but checkpoint {trained.step} is '
        'served: write it again'
      )
    own = loading.fingerprint(trained)
    if int(arrays.get('network', own)) != own:  # files of earlier versions have no fingerprint
      raise UserError(f'--features={path} belongs to another network: write it again')
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
    config: `data` (the examples), `eval` and `serve` are used.
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
    # The description needs a checksum of the parameters, so it is made once.
    self._description = about_lib.describe(self._trained, str(workdir), self._classifier.labels)
    canvas = self._classifier.canvas
    max_pixels = min(canvas.max_pixels, config.serve.max_pixels)
    self._canvas = canvas._replace(max_pixels=max_pixels)
    self._lock = threading.Lock()
    self.features = Features(features, self._trained) if features else None
    self._examples = examples_lib.load(config, canvas, self._classifier.class_names)
    layer = self._trained.config.model.layers[0]
    if spec.is_dense(layer) or spec.is_local(layer):
      raise UserError(
        f'--mode=serve shows the kernels of a convolution, but the first layer is {layer}: use --mode=predict'
      )
    kernels = np.asarray(jax.device_get(self._trained.model.params[layer]['kernel']))
    self._kernels = [_picture(tower) for tower in kernels]
    self._maps = kernels.shape[-1]  # of one tower
    size = canvas.size
    # Compile before the first request.
    self.classify(np.zeros((size, size, 3), np.uint8), with_activations=True)

  def about(self) -> dict[str, Any]:
    """Returns a description of the network for the page: that of `about.describe`, and more."""
    labels = self._classifier.labels
    return self._description | {
      'unsure': {'probability': UNSURE_PROBABILITY, 'margin': UNSURE_MARGIN},
      'max_pixels': self._canvas.max_pixels,
      'exif_orientation': self._canvas.exif_orientation,
      'neighbours_among': len(self.features.paths) if self.features else 0,
      'kernels': self._maps,
      'examples': [
        {'index': i, 'label': labels[example.label]} for i, example in enumerate(self._examples)
      ],
    }

  def decode(self, data: bytes | bytearray | memoryview) -> np.ndarray:
    """Decodes an image file to its canvas, uint8 `[C, C, 3]`.

    Raises:
      ValueError: the image cannot be decoded, is too large, or has too many scans.
    """
    data = bytes(data)
    if data.startswith(b'\xff\xd8') and _has_too_many_scans(data):
      raise ValueError(f'a JPEG of more than {_MAX_SCANS} scans: save it again, not as progressive')
    return decode_canvas(data, self._canvas)

  def classify(self, canvas: np.ndarray, with_activations: bool = False) -> dict[str, Any]:
    """Classifies a canvas, uint8 `[C, C, 3]`, and finds its nearest images.

    Returns:
      `{'top': [{'label', 'probability'}, ...], 'unsure', 'neighbours': [...]}`. A neighbour is `{'index',
      'name', 'label', 'distance'}`: `index` is its position in the features, and `label` is the class that
      its folder is named after, or None. `activations` is added if they are wanted: one picture of the maps
      of the first layer for each tower, as a data URL.

    Raises:
      RunError: the probabilities are not finite.
    """
    classifier, image = self._classifier, canvas[None]
    found: dict[str, Any] = {}
    with self._lock:
      (row,) = classifier.classify(image)
      if not np.isfinite(row).all():
        raise RunError(
          'the network computes numbers that are not finite: train it again at a lower rate'
        )
      top = most_probable(row, classifier.labels)
      found |= {'top': top, 'unsure': is_unsure(top), 'neighbours': []}
      if self.features:
        vector = classifier.activations(image, self.features.layer)
        found['neighbours'] = self._neighbours(self.features, vector.reshape(-1))
      if with_activations:
        (maps,) = classifier.activations(image, self._trained.config.model.layers[0])
    if with_activations:
      towers = np.split(maps, maps.shape[-1] // self._maps, axis=-1)
      found['activations'] = [_data_url(_picture(_centred(tower))) for tower in towers]
    return found

  def _neighbours(self, features: Features, vector: np.ndarray) -> list[dict[str, Any]]:
    label_of = dict(zip(self._classifier.class_names, self._classifier.labels, strict=True))
    neighbours = []
    for index, distance in features.nearest(vector):
      path = pathlib.Path(features.paths[index])
      label = label_of.get(path.parent.name)
      neighbours.append({'index': index, 'name': path.name, 'label': label, 'distance': distance})
    return neighbours

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

  def example(self, index: int) -> bytes:
    """Returns the canvas of an example, as PNG; raises IndexError if there is no such example."""
    if not 0 <= index < len(self._examples):
      raise IndexError(index)
    return _encoded(self._examples[index].canvas, 'PNG')

  def kernels(self, tower: int) -> bytes:
    """Returns the kernels of the first layer of a tower, as PNG, each scaled to its own range around grey.

    Raises:
      IndexError: there is no such tower.
    """
    if not 0 <= tower < len(self._kernels):
      raise IndexError(tower)
    return self._kernels[tower]


def _has_too_many_scans(jpeg: bytes) -> bool:
  """Returns whether a JPEG file has more than `_MAX_SCANS` scans, up to the end of its first image."""
  scans, start = 0, 2
  while (found := _SEGMENT.search(jpeg, start)) and found[0] != _END and scans <= _MAX_SCANS:
    scans += found[0] == _SCAN
    start = found.end() + int.from_bytes(jpeg[found.end() : found.end() + 2])
  return scans > _MAX_SCANS


def _picture(maps: np.ndarray) -> bytes:
  """Draws kernels or maps, float `[H, W, 1 or 3, maps]`, in a grid, as PNG."""
  return _encoded(kernels_lib.picture(maps), 'PNG')


def _centred(maps: np.ndarray) -> np.ndarray:
  """Scales each map of float `[H, W, maps]` to -1 ... 1; returns `[H, W, 1, maps]`."""
  low, high = maps.min((0, 1)), maps.max((0, 1))
  return (2 * (maps - low) / np.maximum(high - low, np.finfo(np.float32).tiny) - 1)[:, :, None]


def _data_url(png: bytes) -> str:
  return f'data:image/png;base64,{base64.b64encode(png).decode()}'


def _encoded(pixels: np.ndarray, form: str, **options: Any) -> bytes:
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, form, **options)
  return file.getvalue()
