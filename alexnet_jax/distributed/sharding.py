"""Sharding rules: which device holds which part of a batch and of the parameters."""

from collections.abc import Callable, Mapping
import math

import jax
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import FrozenConfigDict
import numpy as np

from alexnet_jax.distributed.mesh import DATA, TOWER
from alexnet_jax.models import alexnet, spec


def local_module(config: FrozenConfigDict, mesh: Mesh) -> alexnet.AlexNet:
  """Returns the network of `config` as one device of `mesh` computes it, for use under `shard_map`."""
  return alexnet.AlexNet(
    config.model,
    local_towers=config.model.towers // mesh.shape[TOWER],
    tower_axis=TOWER,
    data_axis=DATA,
    unit_axis=DATA if config.parallelism == 'owt' else None,
  )


def specs(config: FrozenConfigDict, tree):
  """Returns the partition specs of a train state, or of any tree that holds parameters under their names.

  The leaves of a layer are split over 'tower'. The bias of the last layer and everything that belongs
  to no layer are replicated. Under `config.parallelism = 'owt'` the units of the fully connected layers
  are also split over 'data': the last dimension of their kernels and biases, and the inputs of the last
  layer.

  Args:
    config: a whole config.
    tree: arrays or ShapeDtypeStructs.

  Returns:
    A tree like `tree` with a PartitionSpec for each leaf.
  """
  spread_units, last = config.parallelism == 'owt', config.model.layers[-1]

  def spec_of(path: tuple, leaf) -> P:
    names = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
    rank = getattr(leaf, 'ndim', 0)
    if len(names) < 2 or rank < 2:
      return P()
    layer = names[-2]
    if not spread_units or not spec.is_dense(layer):
      return P(TOWER)
    return P(TOWER, DATA) if layer == last else P(TOWER, *(None,) * (rank - 2), DATA)

  return jax.tree.map_with_path(spec_of, tree)


def shardings(config: FrozenConfigDict, mesh: Mesh, tree):
  """Returns `specs` as a tree of NamedShardings on `mesh`."""
  return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs(config, tree))


def replicate(mesh: Mesh, tree):
  """Puts the arrays of `tree` on every device of `mesh`; every process must pass the same arrays."""
  replicated = NamedSharding(mesh, P())

  def put(leaf) -> jax.Array:
    leaf = np.asarray(leaf)
    return jax.make_array_from_callback(leaf.shape, replicated, lambda index: leaf[index])

  return jax.tree.map(put, tree)


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
  """Returns the row numbers in the global batch that this process's devices hold, int64 `[b]`, ascending.

  Args:
    mesh: the mesh.
    batch_size: rows of the global batch, a multiple of the data axis.
  """
  process = jax.process_index()
  is_local = [any(device.process_index == process for device in row) for row in mesh.devices]
  return np.flatnonzero(np.repeat(is_local, batch_size // mesh.shape[DATA]))


def shard_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
  """Puts this process's rows of a batch on its devices, split over 'data'.

  Args:
    mesh: the mesh.
    batch: arrays `[b, ...]` of the rows that `local_rows` names, in that order.

  Returns:
    Global arrays `[B, ...]`.
  """
  sharding = NamedSharding(mesh, P(DATA))
  devices = mesh.shape[DATA]
  local = len(local_rows(mesh, devices))

  def put(rows: np.ndarray) -> jax.Array:
    shape = len(rows) * devices // local, *rows.shape[1:]
    return jax.make_array_from_process_local_data(sharding, rows, shape)

  return {name: put(rows) for name, rows in batch.items()}


def shard_map(function: Callable, mesh: Mesh, in_specs, out_specs) -> Callable:
  """Calls `jax.shard_map` with `check_vma`, which checks that replicated results are the same everywhere."""
  return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=True)


def differs(leaf: jax.Array) -> bool:
  """Returns whether an array under `shard_map` may differ between the devices along 'data'."""
  return DATA in jax.typeof(leaf).manual_axis_type.varying


def own_copies(tree):
  """Gives each device along 'data' its own copy of the arrays of `tree`, for use under `shard_map`.

  The gradient with respect to an array is the sum over the devices along 'data'. It is computed where the
  copies are made; gradients with respect to the copies themselves are those of one device.
  """
  return jax.tree.map(
    lambda leaf: leaf if differs(leaf) else lax.pcast(leaf, DATA, to='varying'), tree
  )


def bytes_per_device(tree) -> tuple[int, int]:
  """Returns the bytes of `tree` on each device, and the bytes of its global arrays.

  Args:
    tree: `jax.Array`s, or ShapeDtypeStructs with shardings.
  """
  leaves = jax.tree.leaves(tree)
  shards = [leaf.sharding.shard_shape(leaf.shape) for leaf in leaves]
  held = sum(math.prod(s) * leaf.dtype.itemsize for s, leaf in zip(shards, leaves, strict=True))
  return held, sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
