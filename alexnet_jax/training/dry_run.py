"""`--dry_run`: measures the memory and the time that a training run would need, without training."""

from collections.abc import Callable
import contextlib
import pathlib
import time
from typing import TypeVar

from absl import logging
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np

from alexnet_jax import config as config_lib
from alexnet_jax import models, steps
from alexnet_jax.data import Dataset, Statistics, open_dataset
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.distributed import sharding
from alexnet_jax.evaluation import describe
from alexnet_jax.steps import optimizer, schedules
from alexnet_jax.training.fine_tuning import check_origin, copy_layers
from alexnet_jax.training.run import resolve
from alexnet_jax.workdir.checkpoint import FOLDER

_TIMED_STEPS = 3  # the shortest one counts

T = TypeVar('T')


def dry_run(config: ConfigDict, workdir: str = '') -> dict[str, object]:
  """Opens the data, reads a batch, compiles the training step and times it at rate 0; writes nothing.

  Returns:
    `{'steps', 'epochs', 'train_images', 'validation_images', 'classes', 'parameters', 'mesh',
    'bytes_per_device', 'compile_s', 'batch_s', 'step_s', 'training_s'}`. `bytes_per_device` covers the state,
    a batch and the temporaries of the compiled step, as XLA counts them. `compile_s`, `batch_s` and `step_s`
    are the seconds to compile, to read one batch (without reading ahead) and to run one step; `training_s`
    is the time of all steps without evaluations.

  Raises:
    UserError: the config or the data cannot be used.
  """
  config = ConfigDict(config)
  config_lib.validate(config)
  check_origin(config)
  models.layer_table(config.model)
  mesh = mesh_lib.make_mesh(config)
  # One batch is read instead of filling the cache, without the seconds that importing TensorFlow takes.
  # A set in TFRecord files is read in blocks, because it would otherwise be copied into a store.
  reading = {'cache_mib': 0, 'loader': 'threads', 'shuffle': 'buffer'}
  data = ConfigDict(config.data.to_dict() | reading)
  with contextlib.closing(open_dataset(data, config.seed)) as dataset:
    frozen = resolve(config, dataset)
    logging.info('reading a batch of %d images', frozen.train.batch_size)
    batch, read_s = _timed(lambda: _read_batch(frozen, mesh, dataset))
    images = dataset.num_train, dataset.num_validation, len(dataset.class_names)
  state = steps.init_state(frozen, mesh)
  if not pathlib.Path(workdir, FOLDER).is_dir():  # a run that resumes copies no layers
    state = copy_layers(frozen, mesh, state)
  parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  logging.info('compiling the training step of %d parameters', parameters)
  step, compile_s = _timed(lambda: describe.compiled_step(frozen, mesh, state))
  side = frozen.data.canvas.size
  statistics = Statistics(*(np.zeros(s, np.float32) for s in ((side, side, 3), (3, 3), (3,))))
  rates = jax.tree.map(np.float32, optimizer.rate_tree(frozen.optim, state.params, 0.0, 0.0, 0.0))
  inputs = sharding.replicate(mesh, (rates, np.float32(0), statistics))
  durations = []
  logging.info('running %d steps', _TIMED_STEPS)
  for _ in range(_TIMED_STEPS):
    began = time.perf_counter()
    state, loss = step(state, batch, *inputs)
    loss.block_until_ready()
    durations.append(time.perf_counter() - began)
  total = schedules.total_steps(frozen, images[0])
  return {
    'steps': total,
    'epochs': round(total * frozen.train.batch_size / images[0], 4),
    'train_images': images[0],
    'validation_images': images[1],
    'classes': images[2],
    'parameters': parameters,
    'mesh': list(mesh.shape.values()),
    'bytes_per_device': _bytes(step),
    'compile_s': round(compile_s, 2),
    'batch_s': round(read_s, 3),
    'step_s': round(min(durations), 4),
    'training_s': round(min(durations) * total),
  }


def _timed(function: Callable[[], T]) -> tuple[T, float]:
  """Returns the result of `function` and the seconds that it took."""
  began = time.perf_counter()
  return function(), time.perf_counter() - began


def _read_batch(config: FrozenConfigDict, mesh: Mesh, dataset: Dataset) -> dict[str, jax.Array]:
  """Returns the first training batch, on the devices."""
  size = config.train.batch_size
  batches = dataset.train_batches(0, size, sharding.local_rows(mesh, size))
  return sharding.shard_batch(mesh, next(batches))


def _bytes(step: jax.stages.Compiled) -> int | None:
  """Returns the bytes that a compiled step needs on one device; None if the backend does not report them."""
  analysis = step.memory_analysis()
  if analysis is None:
    return None
  arrays = analysis.argument_size_in_bytes + analysis.output_size_in_bytes
  # Donated arrays are counted both as arguments and as outputs.
  return arrays + analysis.temp_size_in_bytes - analysis.alias_size_in_bytes
