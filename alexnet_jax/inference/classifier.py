"""A trained network in Python: `alexnet_jax.load` returns a `Classifier`.

`--mode=predict` and `--mode=serve` compute with it too, and `--mode=features` and `--mode=report` with
`feature_function`, so the results are the same.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import functools
import math
import os
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import FrozenConfigDict
import numpy as np
from PIL import Image

from alexnet_jax import models
from alexnet_jax.data import Canvas
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.distributed import sharding
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import loading
from alexnet_jax.inference.files import Decoded, Reader, read
from alexnet_jax.models import alexnet, spec
from alexnet_jax.steps import augment
from alexnet_jax.workdir import archive

_TOP = 5
Prediction = dict[str, Any]  # {'label': str, 'probability': float}


def load(path: str | os.PathLike, checkpoint: str | int = 'best', views: int | None = None):
  """Loads a trained network.

  Args:
    path: the workdir of a run, or a .safetensors file that `--mode=export` wrote.
    checkpoint: the checkpoint of a run: best, latest or a step.
    views: the number of views of each image whose predictions are averaged, 1, 9 or 10 (see
      `config.eval.views`). By default it is that of the config of the run, as for `--mode=predict`.

  Returns:
    A `Classifier`.

  Raises:
    UserError: there is no such network or checkpoint, or `views` is not allowed.
  """
  config = archive.read_config(path)
  if math.prod(config.mesh) > len(jax.devices()):  # the run was trained on a larger machine
    config.mesh = (0, 0)
  if views is not None:
    config.eval.views = views
  return Classifier(loading.load(os.fspath(path), str(checkpoint), config))


def most_probable(probabilities: np.ndarray, labels: Sequence[str]) -> list[Prediction]:
  """Returns the five most probable classes of an image.

  Args:
    probabilities: float `[classes]`.
    labels: names of the classes.

  Returns:
    `[{'label', 'probability'}, ...]`, the most probable first; ties keep the order of the classes.
  """
  best = np.argsort(-probabilities, kind='stable')[:_TOP]
  return [{'label': labels[k], 'probability': float(probabilities[k])} for k in best]


def layer_keys(config: FrozenConfigDict) -> dict[str, str]:
  """Returns the names of outputs that `features` can write, with their keys among the 'intermediates'.

  Args:
    config: `config.model`.

  Returns:
    For each layer its own name (`conv5`: the output after the activation, or the linear output of a layer
    without one), and for each operation that follows it its key (`conv5/pool`) and a short name (`pool5`).
    Where two layers share a short name, as conv6 and fc6 share `act6`, it means the earlier layer.
  """
  keys: dict[str, str] = {}
  for layer in config.layers:
    then = spec.operations(config, layer)
    keys[layer] = alexnet.intermediate_key(layer, 'act') if 'act' in then else layer
    for operation in then:
      key = alexnet.intermediate_key(layer, operation)
      keys.setdefault(f'{operation}{spec.number(layer)}', key)
      keys[key] = key
  return keys


def feature_function(trained: loading.Trained, layer: str) -> Callable[[np.ndarray], np.ndarray]:
  """Returns the compiled function that computes the output of a layer for the centre view of each image.

  Args:
    trained: the network.
    layer: one of `layer_keys`.

  Returns:
    `f(canvases) -> features`, with canvases uint8 `[B, C, C, 3]` and features float32 `[B, ...]`. The
    towers are concatenated along the channels.

  Raises:
    UserError: there is no such layer.
  """
  config, model = trained.config, trained.model
  keys = layer_keys(config.model)
  if layer not in keys:
    known = ', '.join(name for name in keys if '/' not in name)
    raise UserError(f'the network has no layer {layer}; with --layer, choose one of {known}')
  module = models.create(config.model)
  view = jnp.asarray(augment.VIEWS[1][0], jnp.float32)

  @jax.jit
  def compute(variables, mean_image, canvases):
    images = augment.eval_images(canvases, view, mean_image, config)
    _, state = module.apply(
      variables, images, train=False, capture_intermediates=True, mutable=['intermediates']
    )
    out = state['intermediates'][keys[layer]]
    out = (out['__call__'] if isinstance(out, dict) else out)[0]
    return jnp.concatenate(out, -1) if isinstance(out, list | tuple) else out

  variables = {'params': model.params, 'batch_stats': model.batch_stats}
  return lambda canvases: np.asarray(compute(variables, model.mean_image, canvases), np.float32)


class Classifier:
  """A trained network that takes images.

  An image is the path of a file, a PIL image, or pixels, uint8 `[H, W, 3]` (RGB) or `[H, W]`, of any size. It
  becomes a canvas as in training. The methods take one image, or many: a list, another iterable, an array
  `[N, H, W, 3]`, or an array of paths. For one image the results have no leading dimension N.

  Results can differ in the last digits if images are given in groups of another size, because the devices
  then add in another order. A JPEG file much larger than the canvas is decoded at a fraction of its size; PIL
  images and arrays are scaled from all of their pixels.

  Args:
    trained: the network.

  Attributes:
    class_names: the names of the classes in the training data, in the order of the probabilities.
    labels: the same classes in words, where they are known (`tench, Tinca tinca` for `n01440764`).
    config: the whole config of the network.
    step: the step of the checkpoint.
  """

  def __init__(self, trained: loading.Trained):
    self.class_names: tuple[str, ...] = tuple(trained.meta['class_names'])
    self.labels: tuple[str, ...] = tuple(loading.class_labels(trained))
    self.config, self.step = trained.config, trained.step
    self.canvas = Canvas.from_config(trained.config.data.canvas)
    self._model, self._mesh = trained.model, trained.mesh
    self._feature_function = functools.cache(functools.partial(feature_function, trained))

  def predict(self, images: Any) -> list:
    """Returns the five most probable classes of each image, as `--mode=predict` does.

    Returns:
      `[{'label', 'probability'}, ...]` for one image, the most probable class first; for many images a list
      of such lists.

    Raises:
      UserError: an image cannot be read, or there are none.
    """
    rows = self.probabilities(images)
    if rows.ndim == 1:
      return most_probable(rows, self.labels)
    return [most_probable(row, self.labels) for row in rows]

  def probabilities(self, images: Any) -> np.ndarray:
    """Returns the probabilities of all classes, float32 `[N, classes]` or `[classes]`.

    Raises:
      UserError: an image cannot be read, or there are none.
    """
    rows = [self.classify(canvases)[:count] for count, canvases in self._batches(images)]
    return _without_n(np.concatenate(rows), images)

  def features(self, images: Any, layer: str = 'fc7') -> np.ndarray:
    """Returns the activations of a layer for the centre view of each image, as `--mode=features` does.

    Args:
      images: the images.
      layer: the name of a layer or of an operation, such as fc6, fc7 or pool5.

    Returns:
      float32 `[N, ...]`, or without N for one image. The towers are concatenated along the channels.

    Raises:
      UserError: there is no such layer, an image cannot be read, or there are none.
    """
    self._feature_function(layer)  # reports an unknown layer before the images are read
    rows = [self.activations(canvases, layer)[:count] for count, canvases in self._batches(images)]
    return _without_n(np.concatenate(rows), images)

  def batch_size(self, images: int) -> int:
    """Returns the size of the batches in which `images` images are computed."""
    return loading.batch_size_on(self.config, self._mesh.shape[mesh_lib.DATA], images)

  def classify(self, canvases: np.ndarray) -> np.ndarray:
    """Returns probabilities, float32 `[B, classes]`, of canvases, uint8 `[B, C, C, 3]`."""
    model = self._model
    batch = sharding.shard_batch(self._mesh, {'image': canvases})
    return np.asarray(
      model.predict(model.params, model.batch_stats, batch['image'], model.mean_image)
    )

  def activations(self, canvases: np.ndarray, layer: str) -> np.ndarray:
    """Returns the activations of a layer, float32 `[B, ...]`, for canvases, uint8 `[B, C, C, 3]`."""
    return self._feature_function(layer)(canvases)

  def _batches(self, images: Any) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (number of images, canvases, uint8 `[B, C, C, 3]`) for each batch of the images."""
    listed = [images] if _is_one(images) else _listed(images, self.canvas)
    if not listed:
      raise UserError('there are no images: give at least one')
    reader = Reader(listed, self.canvas, self.batch_size(len(listed)), strict=True)
    for names, canvases in reader:
      yield len(names), canvases


def _is_one(images: Any) -> bool:
  if isinstance(images, str | os.PathLike | Image.Image):
    return True
  return hasattr(images, '__array__') and np.ndim(images) in (0, 2, 3)  # not an array of paths


def _listed(images: Any, canvas: Canvas) -> list:
  """Returns many images as a list, with those of an iterator decoded, because it may reuse one object.

  The frames of a PIL image share one object, and a generator may fill the same array again.
  """
  if not isinstance(images, Iterable):
    raise UserError(
      f'{type(images).__name__} is not an image: give paths, PIL images or uint8 pixels [H, W, 3]'
    )
  if isinstance(images, Sequence) or hasattr(images, '__array__'):
    return list(images)
  return [
    image if isinstance(image, str | os.PathLike) else Decoded(read(image, canvas))
    for image in images
  ]


def _without_n(rows: np.ndarray, images: Any) -> np.ndarray:
  """Returns `rows`, float32 `[N, ...]`, without N if `images` is one image."""
  return rows[0] if _is_one(images) else rows
