"""The mesh and the sharding rules: the one place that knows how many devices there are.

The mesh has axes ('data', 'tower'). A batch is split over 'data'; every parameter with a leading tower
axis is split over 'tower', so that on (1, 2) each of two devices holds one tower, as each of the
paper's two GPUs did. Steps run under `jax.shard_map`; `jax.pmap`, which used to do this, is now a
wrapper around it in maintenance mode.
"""

from collections.abc import Callable, Mapping
import math

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.models.alexnet import AlexNet

DATA, TOWER = 'data', 'tower'


def most_devices(batch_size: int) -> int:
  """The most devices among which a batch can be split evenly."""
  return max(n for n in range(1, len(jax.devices()) + 1) if batch_size % n == 0)


def make_mesh(config: ConfigDict | FrozenConfigDict, batch_size: int = 0) -> Mesh:
  """The mesh of `config.mesh`, `(data, tower)`; `(0, 0)` asks for the default.

  The data axis must divide `batch_size`, which is `config.train.batch_size` where left out.

  The default is (n/2, 2) for an even number n of devices and two towers, else (n, 1). A mesh smaller
  than the machine uses the first devices.

  Raises:
    UserError: not two whole numbers, more devices than there are, a tower axis the recipe cannot fill,
      or a batch that the data axis does not divide.
  """
  shape = config.mesh
  if len(shape) != 2 or not all(isinstance(n, int) and n >= 0 for n in shape):
    raise UserError(f'config.mesh={shape!r}: write two whole numbers, as in --config.mesh=1,2')
  data, tower = shape
  devices = jax.devices()
  towers = config.model.towers
  batch_size = batch_size or config.train.batch_size
  if (data, tower) == (0, 0):
    tower = 2 if towers == 2 and len(devices) % 2 == 0 else 1
    data = len(devices) // tower
    while batch_size % data:  # a small batch cannot use them all
      data -= 1
  if data < 1 or tower not in (1, towers):
    raise UserError(
      f'config.mesh={data},{tower}: this network has {towers} tower(s), so the second number must '
      f'be 1{" or 2" if towers == 2 else ""}, and the first at least 1'
    )
  if data * tower > len(devices):
    raise UserError(
      f'config.mesh={data},{tower} needs {data * tower} devices; there are {len(devices)}: '
      'choose a smaller mesh'
    )
  if batch_size % data:
    raise UserError(
      f'config.train.batch_size={batch_size} is not divisible by the data axis of '
      f'config.mesh={data},{tower}'
    )
  return jax.make_mesh(
    (data, tower), (DATA, TOWER), (AxisType.Auto,) * 2, devices=devices[: data * tower]
  )


def local_module(config: FrozenConfigDict, mesh: Mesh) -> AlexNet:
  """The network of `config.model` as one device of `mesh` sees it, for use under `shard_map`."""
  local = config.towers // mesh.shape[TOWER]
  return AlexNet(config, local_towers=local, tower_axis=TOWER, data_axis=DATA)


def specs(tree):
  """Partition specs of a train state, or of any tree that holds parameters under their names.

  Layers' leaves are split over 'tower', the last layer's bias and everything else is replicated.
  """

  def spec(path, leaf):
    names = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
    in_layer = len(names) >= 2 and getattr(leaf, 'ndim', 0) >= 2
    return P(TOWER) if in_layer else P()

  return jax.tree.map_with_path(spec, tree)


def shardings(mesh: Mesh, tree):
  """`specs` as shardings on `mesh`."""
  return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs(tree))


def replicate(mesh: Mesh, tree):
  """Puts the arrays of `tree` on every device of `mesh`."""
  return jax.device_put(tree, NamedSharding(mesh, P()))


def shard_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
  """Puts this process's rows of a batch on its devices, split over 'data'."""
  sharding = NamedSharding(mesh, P(DATA))
  return {
    name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
  }


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
