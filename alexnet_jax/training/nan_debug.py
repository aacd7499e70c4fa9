"""Finds where numbers that are not finite first appeared: the step, the layer and the images.

A run is a deterministic function of its last checkpoint, so its steps can be repeated while every number is
checked. If the repeated steps are finite, suspect the hardware.
"""

from collections.abc import Callable
import contextlib
import functools

from absl import logging
import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import FrozenConfigDict
import numpy as np

from alexnet_jax import steps
from alexnet_jax.data import Statistics
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.distributed import multihost, sharding
from alexnet_jax.errors import is_memory
from alexnet_jax.models import alexnet, spec
from alexnet_jax.steps import augment, rng
from alexnet_jax.training.run import Run, start
from alexnet_jax.training.step_inputs import StepInputs

_MAX_SECONDS = 300  # no search that would take longer
_MAX_NAMES = 3  # images named in a message

REMEDY = 'lower the rate (--config.optim.rate=) in a new workdir'


def explain(
  run: Run,
  train_step: Callable,
  inputs: StepInputs,
  statistics: Statistics,
  step: int,
  seconds_per_step: float,
) -> str:
  """Describes a failure at `step` in one line; repeats the steps since the last checkpoint if affordable.

  Args:
    run: the run that failed.
    train_step: the compiled step of `steps.make_train_step`.
    inputs: the inputs of that step.
    statistics: those of the training images, on the devices.
    step: number of the step (counted from 1) after which a number was not finite.
    seconds_per_step: mean duration of a step; decides whether the search is affordable.
  """
  last = run.checkpoints.latest()
  kept = 'there is no checkpoint yet' if last is None else f'the checkpoint of step {last} is good'
  what = f'the loss is not finite at step {step} ({kept})'
  repeated = step - (last or 0)
  if repeated > multihost.from_primary(int(_MAX_SECONDS / seconds_per_step)):
    return (
      f'{what}: its origin was not searched for, because the last checkpoint is {repeated} steps back; '
      f'{REMEDY}'
    )
  logging.info('the loss is not finite: repeating %d steps to find the origin', repeated)
  run.stop.stop_at_once()
  try:
    return f'{what}: {_search(run, train_step, inputs, statistics, step)}'
  except (MemoryError, RuntimeError) as error:
    if not is_memory(error):
      raise
    return f'{what}: its origin was not found, because the search ran out of memory; {REMEDY}'


def _search(
  run: Run, train_step: Callable, inputs: StepInputs, statistics: Statistics, last: int
) -> str:
  """Repeats the steps from the newest checkpoint to step `last` and describes the first failure."""
  watch = make_watch_step(run.config, run.mesh)
  state, _, record = start(run, statistics)
  with contextlib.closing(run.batches(int(state.step))) as batches:
    for step in range(int(state.step), last):
      batch = next(batches)
      rates, colour, _ = inputs.at(step, record.schedule)
      before = jax.tree.map(jnp.copy, state)
      state, loss = train_step(state, batch, rates, colour, statistics)
      if not (np.isfinite(float(loss)) and steps.all_finite((state.params, state.batch_stats))):
        found = jax.device_get(watch(before, batch, colour, statistics))
        return describe(step + 1, found, functools.partial(run.dataset.name, 'train'))
    # An evaluation may be the first to compute with the weights of step `last`.
    _, colour, _ = inputs.at(last, record.schedule)
    found = jax.device_get(watch(state, next(batches), colour, statistics))
    if not (found['rows'].all() and all(found['activations'].values())):
      return describe(last + 1, found, functools.partial(run.dataset.name, 'train'))
  return (
    'the same steps, repeated from the last checkpoint, give finite numbers, so suspect the hardware '
    '(memory or a device may be failing): run the same command again; if it fails again, use another machine'
  )


def make_watch_step(config: FrozenConfigDict, mesh: Mesh) -> Callable[..., dict]:
  """Compiles a function that checks the numbers of one step.

  Returns:
    `watch(state, batch, colour, statistics)`. Its result says which numbers are finite: `images` and `rows`
    (the logits), bool `[B]`; `activations` and `gradients`, a bool for each layer. `index`, int32 `[B]`,
    holds the numbers of the images of the batch.
  """
  compute = steps.loss_and_gradients(config, mesh, ('batch_stats', 'intermediates'))
  seed_key = rng.seed_key(config.seed)

  def on_device(state, batch, colour, statistics):
    rows = lax.axis_index(mesh_lib.DATA) * len(batch['label']) + jnp.arange(len(batch['label']))
    images = augment.train_images(
      batch['image'], rows, seed_key, state.step, colour, statistics, config
    )
    (_, (logits, _, variables)), gradients = compute(
      state.params, state.batch_stats, batch, state.step, colour, statistics
    )
    finite = {}
    for layer in config.model.layers:
      if 'act' in spec.operations(config.model, layer):
        outputs = variables['intermediates'][alexnet.intermediate_key(layer, 'act')]
        towers = jnp.stack(outputs[0])
        bad = (~jnp.isfinite(towers)).any().astype(jnp.int32)
        finite[layer] = lax.psum(bad, (mesh_lib.DATA, mesh_lib.TOWER)) == 0
    return _finite_rows(images), _finite_rows(logits), finite, gradients

  specs = steps.state_specs_of(config)
  out_specs = (P(mesh_lib.DATA), P(mesh_lib.DATA), P(), specs.params)
  sharded = sharding.shard_map(on_device, mesh, (specs, P(mesh_lib.DATA), P(), P()), out_specs)

  def watch(state, batch, colour, statistics):
    images, rows, activations, gradients = sharded(state, batch, colour, statistics)
    mask = batch['mask']
    return {
      'images': images | ~mask,
      'rows': rows | ~mask,
      'index': batch['index'],
      'activations': activations,
      'gradients': {layer: steps.all_finite(gradients[layer]) for layer in config.model.layers},
    }

  return jax.jit(watch, out_shardings=NamedSharding(mesh, P()))


def _finite_rows(x: jax.Array) -> jax.Array:
  """Returns which rows of `x` `[B, ...]` hold finite numbers only, bool `[B]`."""
  return jnp.isfinite(x).all(range(1, x.ndim))


def describe(step: int, found: dict, name: Callable[[int], str]) -> str:
  """Describes the first number that is not finite, as the end of a sentence.

  Args:
    step: number of the step, counted from 1.
    found: the result of `watch` for this step, on the host.
    name: returns the name of the training image of a number.
  """
  began = f'it began at step {step} in'
  images, rows = (found['index'][~found[key]] for key in ('images', 'rows'))
  if len(images):
    return (
      f'{began} the input, before the first layer, with {_names(images, name)}: check the images and the '
      'mean image; if they are correct, memory or a device may be failing'
    )
  some_rows = f' for {_names(rows, name)}' if 0 < len(rows) < len(found['index']) else ''
  for layer, finite in found['activations'].items():
    if not finite:
      return f'{began} the activations of {layer}{some_rows}; {REMEDY}'
  if len(rows):
    return f'{began} the logits{some_rows}; {REMEDY}'
  for layer, finite in reversed(found['gradients'].items()):
    if not finite:
      return f'{began} the gradients of {layer}; {REMEDY}'
  return f'{began} the update of the weights; {REMEDY}'


def _names(indices: np.ndarray, name: Callable[[int], str]) -> str:
  more = f' and {len(indices) - _MAX_NAMES} more' if len(indices) > _MAX_NAMES else ''
  return ', '.join(name(int(i)) for i in indices[:_MAX_NAMES]) + more
