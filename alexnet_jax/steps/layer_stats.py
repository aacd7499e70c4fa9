"""Statistics of each layer during training, computed by a separately compiled function.

The training step is not involved, so a run gives the same bits with and without them.
"""

from collections.abc import Callable

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from ml_collections import FrozenConfigDict

from alexnet_jax import steps
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.distributed import sharding
from alexnet_jax.models import alexnet, spec

Array = jax.Array


def make_diagnostics_step(
  config: FrozenConfigDict, mesh: Mesh
) -> Callable[..., dict[str, dict[str, Array]]]:
  """Compiles the diagnostics for `mesh`.

  Returns:
    `diagnose(state, batch, colour, statistics) -> {layer: {name: float32 scalar}}`, the statistics of the
    network in `state` on one training batch, with dropout and augmentation:

    * `weight_norm`, `gradient_norm`, `update_norm`: Euclidean norms of the layer's kernel, of the gradient
      of the loss with respect to it (without decay), and of its last update (the velocity);
    * `activation_mean`, `activation_std`: mean and standard deviation of the output of its non-linearity;
    * `dead_share`: the share of its maps or units whose output is 0 everywhere for every image of the batch,
      such as dead ReLUs.
  """
  compute = steps.loss_and_gradients(config, mesh, ('batch_stats', 'intermediates'))

  def on_device(state, batch, colour, statistics):
    (_, (_, _, variables)), grads = compute(
      state.params, state.batch_stats, batch, state.step, colour, statistics
    )
    activations = {}
    for layer in config.model.layers:
      if 'act' in config.model[layer].get('then', ()):
        outputs = variables['intermediates'][alexnet.intermediate_key(layer, 'act')]
        spread = config.parallelism == 'owt' and spec.is_dense(layer)
        activations[layer] = _activation_statistics(jnp.stack(outputs[0]), spread)
    return grads, activations

  state_specs = steps.state_specs_of(config)
  in_specs = (state_specs, P(mesh_lib.DATA), P(), P())
  sharded = sharding.shard_map(on_device, mesh, in_specs, (state_specs.params, P()))

  def diagnose(state, batch, colour, statistics):
    grads, result = sharded(state, batch, colour, statistics)
    velocity = state.opt_state[-1].trace
    trees = {'weight_norm': state.params, 'gradient_norm': grads, 'update_norm': velocity}
    return {
      layer: {name: jnp.linalg.norm(tree[layer]['kernel'].ravel()) for name, tree in trees.items()}
      | result.get(layer, {})
      for layer in config.model.layers
    }

  return jax.jit(diagnose)


def _activation_statistics(x: Array, spread: bool) -> dict[str, Array]:
  """Computes the statistics of an activation over all devices, float32 scalars by name.

  Args:
    x: the local part, `[local towers, local rows, ..., maps]`.
    spread: whether the devices along 'data' hold different units of the same rows.
  """
  x = x.astype(jnp.float32)
  alive = (x != 0).any(range(1, x.ndim - 1)).astype(jnp.float32)
  if not spread:
    alive = lax.pmax(alive, mesh_lib.DATA)
  moments = lax.pmean((x.mean(), (x * x).mean()), (mesh_lib.DATA, mesh_lib.TOWER))
  alive = lax.pmean(alive.mean(), (mesh_lib.DATA, mesh_lib.TOWER) if spread else mesh_lib.TOWER)
  mean, square = moments
  return {
    'activation_mean': mean,
    'activation_std': jnp.sqrt(jnp.maximum(square - mean * mean, 0.0)),
    'dead_share': 1.0 - alive,
  }
