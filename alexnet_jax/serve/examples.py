"""Example images of the page: a few validation images of each class."""

from collections.abc import Sequence
from typing import NamedTuple

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from alexnet_jax.data import Canvas
from alexnet_jax.data.images import SplitImages
from alexnet_jax.data.sources import open_source
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation.evaluate import classes_apart

_OF_A_CLASS = 6  # the largest number of examples of a class
_DOWNLOADED = 'tfds:'  # to open such a source may download it


class Example(NamedTuple):
  """An example image.

  Attributes:
    canvas: uint8 `[C, C, 3]`.
    label: the index of its class.
  """

  canvas: np.ndarray
  label: int


def choose(labels: np.ndarray, number: int) -> np.ndarray:
  """Chooses examples at random, with a fixed seed: equally many of each class, at most six.

  If there are more classes than examples, as many random classes have one example each.

  Args:
    labels: the class of each image, int `[N]`.
    number: the largest number of examples.

  Returns:
    The positions of the examples, int64, ordered by class.
  """
  rng = np.random.default_rng(0)
  classes = np.unique(labels)
  if len(classes) > number:
    classes = np.sort(rng.choice(classes, number, replace=False))
  each = min(number // max(len(classes), 1), _OF_A_CLASS)
  rows = [rng.permutation(np.flatnonzero(labels == k))[:each] for k in classes]
  return np.concatenate(rows) if rows else np.zeros(0, np.int64)


def load(config: ConfigDict, canvas: Canvas, class_names: Sequence[str]) -> list[Example]:
  """Reads the examples from the validation images of `config.data.source`.

  Args:
    config: `data` and `serve.examples` are used.
    canvas: the canvas of the network.
    class_names: the classes of the network.

  Returns:
    The examples; none if the images are not on this machine or have other classes. A log message then says
    why. Images that cannot be decoded are left out. The data sets of TFDS have no examples, because to open
    one may download it.
  """
  if not config.serve.examples:
    return []
  source_name = config.data.source
  if source_name.startswith(_DOWNLOADED):
    logging.info('the page has no examples: %s might have to be downloaded', source_name)
    return []
  logging.info('looking for examples in %s (config.serve.examples=0 shows none)', source_name)
  data = ConfigDict(config.data.to_dict() | {'canvas': canvas._asdict()})
  try:
    source = open_source(data)
  except UserError as error:
    logging.info('the page has no examples: %s', error)
    return []
  apart = classes_apart(source.class_names, class_names)
  if apart or source.validation is None:
    why = f'other classes than the network ({apart})' if apart else 'no validation images'
    logging.info('the page has no examples: %s has %s', source_name, why)
    return []
  split = source.validation
  rows = choose(split.labels, config.serve.examples)

  def skip(index: int, reason: str) -> None:
    logging.warning('%s is no example: %s', split.name(index), reason)

  canvases, decoded = SplitImages(split, canvas, skip).take(rows)
  return [
    Example(pixels, int(split.labels[row]))
    for row, pixels, is_decoded in zip(rows, canvases, decoded, strict=True)
    if is_decoded
  ]
