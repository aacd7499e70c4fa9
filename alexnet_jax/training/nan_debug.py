"""Where numbers that are not finite came from: which step, which part of which layer, which images.

A run is a function of its last checkpoint, so its steps can be done again with every number watched. What
does not come back was made by the machine, not by the network.
"""

from collections.abc import Callable, Iterator

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import FrozenConfigDict
import numpy as np

from alexnet_jax import steps
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.distributed import sharding
from alexnet_jax.models import alexnet
from alexnet_jax.steps import augment, rng

_SHOWN = 3  # images named

REMEDY = 'lower the rate (--config.optim.rate=) in a new workdir'


def find(
  watch: Callable,
  train_step: Callable,
  inputs: Callable[[int, steps.TrainState], tuple],
  state: steps.TrainState,
  until: int,
  batches: Iterator[dict],
  statistics,
  name: Callable[[int], str],
) -> str:
  """Repeats the steps from `state.step` to `until`, and says in words where it began.

  Args:
    watch: of `make_watch_step`.
    train_step: of `steps.make_train_step`.
    inputs: `(step, state) -> (rates, colour)` of the step.
    state: of the newest checkpoint; donated.
    until: the step after which the loss was not finite.
    batches: of the steps from `state.step` on.
    statistics: of the training images, on the devices.
    name: what to call image i.
  """
  for step in range(int(state.step), until):
    batch = next(batches)
    rates, colour = inputs(step, state)
    before = jax.tree.map(jnp.copy, state)
    state, loss = train_step(state, batch, rates, colour, statistics)
    if not (np.isfinite(float(loss)) and steps.all_finite((state.params, state.batch_stats))):
      return _in_words(step + 1, jax.device_get(watch(before, batch, colour, statistics)), name)
  return (
    'done again from the last checkpoint, the same steps give finite numbers, so the machine made this one '
    '(memory or a device may be failing): run the same command again, on another machine if it comes back'
  )


def make_watch_step(config: FrozenConfigDict, mesh: Mesh) -> Callable[..., dict]:
  """Compiles what looks at one step.

  Returns:
    `watch(state, batch, colour, statistics)`, whose result holds, for each, whether all numbers are finite:
    `images` and `rows` (logits), bool `[B]`; `activations` and `gradients`, bool by layer; and `index`, int32
    `[B]`, the batch's.
  """
  compute = steps.loss_and_gradients(config, mesh, ('batch_stats', 'intermediates'))
  seed_key = rng.seed_key(config.seed)
  rooms = (mesh_lib.DATA, mesh_lib.TOWER)

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
      if 'act' in config.model[layer].get('then', ()):
        place, number = alexnet.sown(config.model, 'act', layer)
        towers = jnp.stack(variables['intermediates'][place][number])
        bad = (~jnp.isfinite(towers)).any().astype(jnp.int32)
        finite[layer] = lax.psum(bad, rooms) == 0
    per_row = lambda x: jnp.isfinite(x).all(range(1, x.ndim))
    return per_row(images), per_row(logits), finite, gradients

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


def _in_words(step: int, found: dict, name: Callable[[int], str]) -> str:
  """What `watch` found at `step`, as the end of a sentence."""
  began = f'it began at step {step} in'
  images, rows = (found['index'][~found[key]] for key in ('images', 'rows'))
  if len(images):
    return (
      f'{began} the input, before the first layer, with {_names(images, name)}: look at the images and the '
      'mean image; if they are in order, memory or a device may be failing'
    )
  some = f' for {_names(rows, name)}' if 0 < len(rows) < len(found['index']) else ''
  for layer, finite in found['activations'].items():
    if not finite:
      return f'{began} the activations of {layer}{some}; {REMEDY}'
  if len(rows):
    return f'{began} the logits{some}; {REMEDY}'
  for layer, finite in reversed(found['gradients'].items()):
    if not finite:
      return f'{began} the gradients of {layer}; {REMEDY}'
  return f'{began} the update of the weights; {REMEDY}'


def _names(indices: np.ndarray, name: Callable[[int], str]) -> str:
  more = f' and {len(indices) - _SHOWN} more' if len(indices) > _SHOWN else ''
  return ', '.join(name(int(i)) for i in indices[:_SHOWN]) + more
