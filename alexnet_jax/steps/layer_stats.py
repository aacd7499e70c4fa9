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
      of the loss with respect to it (without decay), and of its velocity, which is its last update unless
      the layer is frozen;
    * `activation_mean`, `activation_std`: mean and standard deviation of the output of its non-linearity;
    * `dead_share`: the share of its maps or units whose output is 0 everywhere for every image of the batch,
      such as dead ReLUs.

    With `config.micro_batches` the parts of the batch are computed one after the other, as in training.
  """
  whole = steps.loss_and_gradients(config, mesh, ('batch_stats', 'intermediates'))

  def compute(*args):
    """Returns what `whole` returns, with moments of the activations in place of the variables."""
    (loss, (logits, examples, variables)), grads = whole(*args)
    moments = {}
    for layer in config.model.layers:
      if 'act' in spec.operations(config.model, layer):
        outputs = variables['intermediates'][alexnet.intermediate_key(layer, 'act')]
        moments[layer] = _moments(jnp.stack(outputs[0]))
    return (loss, (logits, examples, moments)), grads

  if config.micro_batches > 1:
    compute = steps.in_micro_batches(compute, config.micro_batches, _merge)

  def on_device(state, batch, colour, statistics):
    (_, (_, _, moments)), grads = compute(
      state.params, state.batch_stats, batch, state.step, colour, statistics
    )
    activations = {}
    for layer in moments:
      spread = config.parallelism == 'owt' and spec.is_dense(layer)
      mean, square, alive = moments[layer]
      activations[layer] = _activation_statistics(mean, square, alive, spread)
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


def _moments(x: Array) -> tuple[Array, Array, Array]:
  """Returns the mean and the mean square of the local part of an activation, and which maps are not 0.

  Args:
    x: `[local towers, local rows, ..., maps]`.

  Returns:
    Two float32 scalars, and float32 `[local towers, maps]`, 1 where a map is not 0 everywhere.
  """
  x = x.astype(jnp.float32)
  alive = (x != 0).any(range(1, x.ndim - 1)).astype(jnp.float32)
  return x.mean(), (x * x).mean(), alive


def _merge(parts: list[dict[str, tuple[Array, Array, Array]]]) -> dict[str, tuple]:
  """Returns the moments of a batch, given those of its parts, which have equally many rows."""
  merged = {}
  for layer in parts[0]:
    means, squares, alive = (
      jnp.stack(x) for x in zip(*(part[layer] for part in parts), strict=True)
    )
    merged[layer] = means.mean(), squares.mean(), alive.max(0)
  return merged


def _activation_statistics(
  mean: Array, square: Array, alive: Array, spread: bool
) -> dict[str, Array]:
  """Computes the statistics of an activation over all devices, float32 scalars by name.

  Args:
    mean, square, alive: what `_moments` returns.
    spread: whether the devices along 'data' hold different units of the same rows.
  """
  if not spread:
    alive = lax.pmax(alive, mesh_lib.DATA)
  moments = lax.pmean((mean, square), (mesh_lib.DATA, mesh_lib.TOWER))
  alive = lax.pmean(alive.mean(), (mesh_lib.DATA, mesh_lib.TOWER) if spread else mesh_lib.TOWER)
  mean, square = moments
  return {
    'activation_mean': mean,
    'activation_std': jnp.sqrt(jnp.maximum(square - mean * mean, 0.0)),
    'dead_share': 1.0 - alive,
  }
