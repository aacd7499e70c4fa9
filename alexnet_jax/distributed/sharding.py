"""Sharding rules: which device holds which part of a batch and of the parameters."""

from collections.abc import Callable, Mapping
import math

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import FrozenConfigDict
import numpy as np

from alexnet_jax.distributed.mesh import DATA, TOWER
from alexnet_jax.models import alexnet


def local_module(config: FrozenConfigDict, mesh: Mesh) -> alexnet.AlexNet:
  """The network of `config` as one device of `mesh` sees it, for use under `shard_map`."""
  return alexnet.AlexNet(
    config.model,
    local_towers=config.model.towers // mesh.shape[TOWER],
    tower_axis=TOWER,
    data_axis=DATA,
    unit_axis=DATA if config.parallelism == 'owt' else None,
  )


def specs(config: FrozenConfigDict, tree):
  """Partition specs of a train state, or of any tree that holds parameters under their names.

  Layers' leaves are split over 'tower', the last layer's bias and everything else is replicated. Under
  `config.parallelism = 'owt'` the units of the fully connected layers are split over 'data': the last
  dimension of their kernels and biases, and the inputs of the last layer.
  """
  owt, last = config.parallelism == 'owt', config.model.layers[-1]

  def spec(path, leaf):
    names = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
    rank = getattr(leaf, 'ndim', 0)
    if len(names) < 2 or rank < 2:
      return P()
    layer = names[-2]
    if not owt or not alexnet.is_dense(layer):
      return P(TOWER)
    return P(TOWER, DATA) if layer == last else P(TOWER, *(None,) * (rank - 2), DATA)

  return jax.tree.map_with_path(spec, tree)


def shardings(config: FrozenConfigDict, mesh: Mesh, tree):
  """`specs` as shardings on `mesh`."""
  return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs(config, tree))


def replicate(mesh: Mesh, tree):
  """Puts arrays of the host on every device of `mesh`; every process gives the same ones."""
  everywhere = NamedSharding(mesh, P())

  def put(leaf):
    leaf = np.asarray(leaf)
    return jax.make_array_from_callback(leaf.shape, everywhere, lambda index: leaf[index])

  return jax.tree.map(put, tree)


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
  """The places of the global batch that this process's devices read, int64 `[b]`, ascending."""
  here = [any(d.process_index == jax.process_index() for d in row) for row in mesh.devices]
  return np.flatnonzero(np.repeat(here, batch_size // mesh.shape[DATA]))


def shard_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
  """Puts this process's rows of a batch (`local_rows`) on its devices, split over 'data'."""
  sharding = NamedSharding(mesh, P(DATA))
  data = mesh.shape[DATA]
  share = len(next(iter(batch.values()))) // len(local_rows(mesh, data))  # rows of one device
  places = local_rows(mesh, share * data)

  def put(rows):
    def cut(index):
      first = np.searchsorted(places, index[0].start or 0)
      return rows[first : first + share]

    return jax.make_array_from_callback((share * data, *rows.shape[1:]), sharding, cut)

  return {name: put(rows) for name, rows in batch.items()}


def shard_map(function: Callable, mesh: Mesh, in_specs, out_specs) -> Callable:
  """`jax.shard_map` with replication checked, as every step of this project is run."""
  return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=True)


def bytes_per_device(tree) -> tuple[int, int]:
  """Bytes of `tree` on the fullest device, and of the whole of it, read from its live shards."""
  held = {}
  for leaf in jax.tree.leaves(tree):
    for shard in leaf.addressable_shards:
      held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
  total = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
  return max(held.values()), total
