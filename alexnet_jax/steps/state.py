"""The train state: all arrays that a training step changes."""

import functools

from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import FrozenConfigDict
import numpy as np
import optax

from alexnet_jax import models
from alexnet_jax.distributed import sharding
from alexnet_jax.steps import optimizer, rng

Array = jax.Array


@struct.dataclass
class TrainState:
  """All arrays that a training step changes; donated to the step and saved in every checkpoint.

  Attributes:
    step: number of complete steps, int32 scalar.
    params: float32, `params[layer]['kernel' | 'bias']`.
    batch_stats: running moments of batch normalisation, float32; empty if the network has none.
    opt_state: state of `optimizer.paper_sgd`; its last part holds the velocity, float32 like `params`.
    sums: sums over the steps since the last log line, float32 scalars: `loss`, `steps`, `correct` and
      `examples`.
    ema: exponential moving average of the parameters, float32 like them; empty unless `optim.ema` is set.
  """

  step: Array
  params: dict
  batch_stats: dict
  opt_state: optax.OptState
  sums: dict[str, Array]
  ema: dict = struct.field(default_factory=dict)


@jax.jit
def all_finite(tree) -> Array:
  """Returns whether every number of `tree` is finite, bool scalar."""
  return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def zero_sums() -> dict[str, np.ndarray]:
  """Returns zeros, the running sums of a new run and after each log line."""
  return {name: np.zeros((), np.float32) for name in ('loss', 'steps', 'correct', 'examples')}


def _fresh_state(config: FrozenConfigDict) -> TrainState:
  module = models.create(config.model)
  size = config.model.input_size
  key = rng.step_key(rng.seed_key(config.seed), 0, rng.INIT)
  variables = module.init(key, jnp.zeros((1, size, size, 3)))
  params = variables['params']
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=variables.get('batch_stats', {}),
    opt_state=optimizer.paper_sgd(config.optim).init(params),
    sums=jax.tree.map(jnp.asarray, zero_sums()),
    ema=jax.tree.map(jnp.copy, params) if config.optim.ema else {},
  )


@functools.cache
def _shapes(config: FrozenConfigDict) -> TrainState:
  """Returns the shapes and dtypes of the train state."""
  return jax.eval_shape(lambda: _fresh_state(config))


def abstract_state(config: FrozenConfigDict, mesh: Mesh) -> TrainState:
  """Returns the shapes, dtypes and shardings of the train state, without computing it."""
  state = _shapes(config)
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
    state,
    sharding.shardings(config, mesh, state),
  )


def init_state(config: FrozenConfigDict, mesh: Mesh) -> TrainState:
  """Initialises the train state on `mesh`; the numbers do not depend on the mesh.

  Args:
    config: the whole config; `model.num_classes` must be set.
    mesh: the devices.
  """
  # The whole network is initialised outside `shard_map`, where Linen sees the shapes of all towers.
  out = sharding.shardings(config, mesh, _shapes(config))
  return jax.jit(lambda: _fresh_state(config), out_shardings=out)()


def state_specs_of(config: FrozenConfigDict) -> TrainState:
  """Returns the partition specs of the train state."""
  return sharding.specs(config, _shapes(config))
