"""Trained networks: read from the checkpoint of a run or from a .safetensors file, and ready to predict."""

from collections import Counter
from collections.abc import Callable, Sequence
import json
import os
import pathlib
from typing import NamedTuple
import zlib

from absl import logging
import jax
from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np

from alexnet_jax import config as config_lib
from alexnet_jax import steps
from alexnet_jax.data import Statistics, imagenet, sources
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.distributed import sharding
from alexnet_jax.errors import UserError
from alexnet_jax.workdir import archive
from alexnet_jax.workdir.checkpoint import Checkpoints

# The keys of `config.data.canvas` that say how files are read. All others are part of the network.
OF_READING = ('exif_orientation', 'max_pixels')


class Model(NamedTuple):
  """A network ready to predict.

  Attributes:
    predict: the function that `steps.make_predict_step` returns.
    params, batch_stats: as in a train state.
    mean_image: float32 `[C, C, 3]`, the mean of the network's own training images.
    weight: the weight of its probabilities in an ensemble. The weights add up to 1.
  """

  predict: Callable
  params: dict
  batch_stats: dict
  mean_image: jax.Array
  weight: float


class Trained(NamedTuple):
  """A network that was read from a checkpoint, or from a .safetensors file.

  Attributes:
    model: ready to predict.
    config: the whole config of the checkpoint, with the values of the caller that `load` uses.
    meta: the metadata of the checkpoint, among them `class_names`, `class_counts` and `config`.
    step: the step of the checkpoint.
    statistics: of the training images.
    mesh: on which the model predicts.
  """

  model: Model
  config: FrozenConfigDict
  meta: dict
  step: int
  statistics: Statistics
  mesh: jax.sharding.Mesh


def batch_size_on(
  config: ConfigDict | FrozenConfigDict, data: int, images: int | None = None
) -> int:
  """Returns the size of the batches in which images are evaluated.

  Args:
    config: a whole config. The size is `eval.batch_size`, rounded up to a multiple of `data`.
    data: the data axis of the mesh.
    images: the number of images. For a few, the next power of two is enough; so there are few sizes, for
      each of which the network is compiled. None means many.
  """
  size = config.eval.batch_size
  if images is not None:
    size = min(size, 1 << max(images - 1, 0).bit_length())
  return -(-size // data) * data


def make_mesh(config: ConfigDict | FrozenConfigDict) -> jax.sharding.Mesh:
  """Returns the mesh of an evaluation.

  Without `config.mesh`, each device holds a whole network, and the batch is split over all devices.
  Networks with one and with two towers can then share the mesh in an ensemble.
  """
  shape = config.mesh if any(config.mesh) else (len(jax.devices()), 1)
  chosen = ConfigDict(config.to_dict() | {'mesh': shape})
  return mesh_lib.make_mesh(chosen, batch_size_on(config, max(shape[0], 1)))


def load(
  source: str | pathlib.Path, which: str, overrides: ConfigDict, weight: float = 1.0
) -> Trained:
  """Reads a trained network.

  Args:
    source: the workdir of a run, or a .safetensors file that `--mode=export` wrote.
    which: the checkpoint of a run: best, latest or a step. A file holds one checkpoint.
    overrides: a whole config. Its mesh, its `eval` values, its `data.devkit`, and `exif_orientation` and
      `max_pixels` of its `data.canvas` are used; all others are the checkpoint's.
    weight: the weight of the network in an ensemble.

  Raises:
    UserError: there is no such checkpoint or file, or `overrides` is invalid.
  """
  config_lib.validate(overrides)
  read = _read_archive if archive.is_archive(source) else _read_checkpoint
  config, meta, step, mesh, variables, statistics = read(source, which, overrides)
  predict = steps.make_predict_step(config, mesh, config.eval.views)
  params, batch_stats = variables
  model = Model(predict, params, batch_stats, statistics.mean_image, weight)
  return Trained(model, config, meta, step, statistics, mesh)


def _own_config(config: FrozenConfigDict, overrides: ConfigDict) -> FrozenConfigDict:
  """Returns the config of a checkpoint with the values of `overrides` that `load` uses."""
  own = ConfigDict(config.to_dict())
  own.mesh, own.eval = overrides.mesh, overrides.eval
  own.data.devkit = overrides.data.devkit  # it may name the classes in words
  for key in OF_READING:
    own.data.canvas[key] = overrides.data.canvas[key]
  own.parallelism = 'towers'  # prediction needs no split of units, even if training used it
  return FrozenConfigDict(own)


def _read_checkpoint(workdir: str | pathlib.Path, which: str, overrides: ConfigDict):
  """Reads a checkpoint of a run; returns what `load` needs."""
  with Checkpoints(workdir, read_only=True) as checkpoints:
    step = checkpoints.choose(which)
    # `validation` holds the last errors that were measured, which may be those of an earlier step.
    meta = checkpoints.meta(step) | {'validation': checkpoints.errors(step)}
    config = _own_config(meta['config'], overrides)
    if config.eval.weights == 'ema' and not config.optim.ema:
      raise UserError(
        f'config.eval.weights=ema, but the run in {workdir} keeps no average: set '
        '--config.eval.weights=last, or train with --config.optim.ema=0.999'
      )
    mesh = make_mesh(config)
    abstract = steps.abstract_state(config, mesh)
    variables = checkpoints.restore_params(step, abstract, config.eval.weights)
    statistics = checkpoints.restore_statistics(step, mesh, config.data.canvas.size)
  return config, meta, step, mesh, variables, statistics


def _read_archive(path: str | pathlib.Path, which: str, overrides: ConfigDict):
  """Reads a .safetensors file; returns what `load` needs."""
  path = str(path)
  meta = archive.read_facts(path)
  step, weights = meta['step'], meta['config'].eval.weights
  if which not in ('best', 'latest', str(step)):
    raise UserError(f'--checkpoint={which}: {path} holds the checkpoint of step {step} alone')
  config = _own_config(meta['config'], overrides)
  if config.eval.weights != weights:
    raise UserError(
      f'config.eval.weights={config.eval.weights}, but {path} holds the weights {weights!r} alone: set '
      f'--config.eval.weights={weights}, or export the others of the run'
    )
  mesh, network = make_mesh(config), archive.read_network(path, config)
  abstract = steps.abstract_state(config, mesh)

  def put(array: np.ndarray, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, array.__getitem__)

  variables = tuple(
    jax.tree.map(put, arrays, leaves)
    for arrays, leaves in (
      (network.params, abstract.params),
      (network.batch_stats, abstract.batch_stats),
    )
  )
  return config, meta, step, mesh, variables, sharding.replicate(mesh, network.statistics)


def load_alone(source: str | pathlib.Path, which: str, config: ConfigDict) -> Trained:
  """Reads a trained network for one device, and checks that it is the one that `config` describes.

  Args:
    source: the workdir of a run, or a .safetensors file.
    which: the checkpoint: best, latest or a step.
    config: a whole config; see `load`.

  Raises:
    UserError: there is no such checkpoint, or it holds another network than `config` describes.
  """
  trained = load(source, which, ConfigDict(config.to_dict() | {'mesh': (1, 1)}))
  check_overrides(config, trained)
  return trained


def check_overrides(config: ConfigDict, trained: Trained) -> None:
  """Checks that `config` describes a network that was loaded with it.

  A log message names values for reading images that differ from those of the training.

  Raises:
    UserError: a value of `config.model`, `config.augment` or `config.data.canvas` differs. The number of
      classes, the largest number of pixels and the use of EXIF orientations may.
  """
  own = config_lib.flatten(trained.meta['config'])
  for key, value in config_lib.flatten(config).items():
    group, _, name = key.rpartition('.')
    is_of_network = key.startswith(('model.', 'augment.')) and key != 'model.num_classes'
    if value == own.get(key) or not (is_of_network or group == 'data.canvas'):
      continue
    if name not in OF_READING:
      raise UserError(
        f'config.{key}={value!r}, but the checkpoint was trained with {own.get(key)!r}: leave it '
        'out; the network comes from the checkpoint'
      )
  warn_of_another_reading(config, trained)


def warn_of_another_reading(
  config: ConfigDict, trained: Trained, name: str | pathlib.Path = 'the network'
) -> None:
  """Logs a warning for each value for reading images that differs from that of the training.

  Args:
    config: a whole config; it says how the images of an evaluation are read.
    trained: the network that is evaluated.
    name: its name in the message.
  """
  here, own = config.data.canvas, trained.meta['config'].data.canvas
  for key in OF_READING:
    if here[key] != own[key]:
      logging.warning(
        'config.data.canvas.%s is %s here, and %s was trained with %s',
        key,
        here[key],
        name,
        own[key],
      )


def warn_of_another_split(
  config: ConfigDict, trained: Trained, name: str | pathlib.Path = 'the network'
) -> list[str]:
  """Returns and logs warnings if `config` holds out other images of the training data than the training did.

  Args:
    config: a whole config; it names the images of an evaluation.
    trained: the network that is evaluated.
    name: its name in the messages, such as its workdir.
  """
  here, own = config.data, trained.meta['config'].data
  if not trained.meta['num_train'] or sources.short_name(here.source) != sources.short_name(
    own.source
  ):
    return []
  differing = []
  # Even with the same seed, a smaller share need not be a part of a larger one (`splits.hold_out`).
  if here.holdout != own.holdout:
    differing.append('holdout')
  if here.split_seed != own.split_seed and here.source != 'elpv':  # elpv is split with a fixed seed
    differing.append('split_seed')
  messages = [
    f'config.data.{key}={here[key]}, but {name} was trained with {own[key]}: if {here.source} has no '
    'validation split of its own, the network may be evaluated on images that it was trained on, which '
    'makes the error too low'
    for key in differing
  ]
  for message in messages:
    logging.warning('%s', message)
  return messages


def class_labels(trained: Trained) -> list[str]:
  """Returns the names of the classes; ImageNet classes are named in words (`tench, Tinca tinca`).

  Two classes of ImageNet have the same word, a bird and a machine. Their WordNet IDs are added: `crane
  (n02012849)`. The words come from the devkit that the caller of `load` named, or else from the training
  data, or from what `imagenet.titles` finds.

  Raises:
    UserError: the devkit cannot be read, or the classes are not those of ImageNet.
  """
  names, own = tuple(trained.meta['class_names']), trained.meta['config'].data
  devkit = trained.config.data.devkit
  if devkit != own.devkit:
    if not imagenet.is_imagenet(names):
      raise UserError(
        f'config.data.devkit={devkit}: the classes are not WordNet IDs but {", ".join(names[:3])}: '
        'leave it out'
      )
  elif titles := trained.meta.get('class_titles'):
    return _distinct(titles, names)
  elif not os.path.isdir(devkit):
    devkit = ''  # it has moved since training
  root = pathlib.Path(own.source.partition(':')[2])
  return _distinct(imagenet.titles(names, root, devkit) or names, names)


def _distinct(titles: Sequence[str], names: Sequence[str]) -> list[str]:
  """Adds its name to each title that several classes have."""
  counts = Counter(titles)
  return [
    f'{title} ({name})' if counts[title] > 1 else title
    for title, name in zip(titles, names, strict=True)
  ]


def fingerprint(trained: Trained) -> int:
  """Returns a checksum of everything that decides the activations of a canvas, and how canvases are made.

  These are the parameters, the statistics of batch normalisation, the mean image, and the values of
  `config.augment` and `config.data.canvas` with which images become inputs.
  """
  config, model = trained.config, trained.model
  canvas = {key: x for key, x in config.data.canvas.to_dict().items() if key not in OF_READING}
  inputs = [config.augment[key] for key in ('mean', 'mean_at', 'std')]
  checksum = zlib.crc32(json.dumps([canvas, inputs], sort_keys=True).encode())
  for leaf in jax.tree.leaves((model.params, model.batch_stats, model.mean_image)):
    checksum = zlib.crc32(np.asarray(leaf).tobytes(), checksum)
  return checksum
