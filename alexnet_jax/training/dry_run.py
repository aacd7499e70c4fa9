"""`--dry_run`: all of a training run but the training, to see what it would take."""

import contextlib
import time

import jax
from ml_collections import ConfigDict
import numpy as np

from alexnet_jax import config as config_lib
from alexnet_jax import models, steps
from alexnet_jax.data import Statistics, open_dataset
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.distributed import sharding
from alexnet_jax.evaluation import describe
from alexnet_jax.steps import optimizer, schedules
from alexnet_jax.training.loop import resolve

_TIMED = 3  # steps whose shortest counts


def dry_run(config: ConfigDict) -> dict[str, object]:
  """Opens the data, reads a batch, compiles the step and tries it at rate 0; writes nothing.

  Returns:
    `{'steps', 'epochs', 'train_images', 'validation_images', 'classes', 'parameters', 'mesh',
    'bytes_per_device', 'compile_s', 'batch_s', 'step_s', 'training_s'}`: bytes of the compiled
    step, state, batch and what lies between, as XLA counts them; seconds to compile, to read one
    batch (not yet ahead of the steps), of a step, and of all steps without evaluations.

  Raises:
    UserError: the config or the data cannot be used.
  """
  config = ConfigDict(config)
  config_lib.validate(config)
  models.layer_table(config.model)
  mesh = mesh_lib.make_mesh(config)
  data = ConfigDict(config.data.to_dict() | {'cache_mib': 0})  # one batch, not all that fits
  with contextlib.closing(open_dataset(data, config.seed)) as dataset:
    frozen = resolve(config, dataset)
    size = frozen.train.batch_size
    began = time.perf_counter()
    batches = dataset.train_batches(0, size, sharding.local_rows(mesh, size))
    batch = sharding.shard_batch(mesh, next(batches))
    read = time.perf_counter() - began
    images = dataset.num_train, dataset.num_validation, len(dataset.class_names)
  state = steps.init_state(frozen, mesh)
  parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  began = time.perf_counter()
  step = describe.compiled_step(frozen, mesh, state)
  compiled = time.perf_counter() - began
  side = frozen.data.canvas.size
  statistics = Statistics(*(np.zeros(s, np.float32) for s in ((side, side, 3), (3, 3), (3,))))
  rates = jax.tree.map(np.float32, optimizer.rate_tree(frozen.optim, state.params, 0.0, 0.0, 0.0))
  inputs = sharding.replicate(mesh, (rates, np.float32(0), statistics))
  took = []
  for _ in range(_TIMED):
    began = time.perf_counter()
    state, loss = step(state, batch, *inputs)
    loss.block_until_ready()
    took.append(time.perf_counter() - began)
  total = schedules.total_steps(frozen, images[0])
  return {
    'steps': total,
    'epochs': round(total * size / images[0], 4),
    'train_images': images[0],
    'validation_images': images[1],
    'classes': images[2],
    'parameters': parameters,
    'mesh': list(mesh.shape.values()),
    'bytes_per_device': _bytes(step),
    'compile_s': round(compiled, 2),
    'batch_s': round(read, 3),
    'step_s': round(min(took), 4),
    'training_s': round(min(took) * total),
  }


def _bytes(step: jax.stages.Compiled) -> int | None:
  """Bytes of a compiled step on one device at most, None where the backend does not say."""
  found = step.memory_analysis()
  if found is None:
    return None
  in_place = found.alias_size_in_bytes  # counted among arguments and outputs
  both = found.argument_size_in_bytes + found.output_size_in_bytes
  return both + found.temp_size_in_bytes - in_place
