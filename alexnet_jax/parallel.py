"""The mesh and the sharding rules: the one place that knows how many devices there are.

The mesh has axes ('data', 'tower'). A batch is split over 'data'; every parameter with a leading tower
axis is split over 'tower', so that on (1, 2) each of two devices holds one tower, as each of the
paper's two GPUs did. With `config.parallelism = 'owt'` ("one weird trick", arXiv 1404.5997) the mesh is
(n, 1) and the units of the fully connected layers are spread over 'data' too. Steps run under
`jax.shard_map`; `jax.pmap`, which used to do this, is now a wrapper around it in maintenance mode.
The devices may belong to several processes (`alexnet_jax.distributed`).
"""

from collections.abc import Callable, Mapping
import math

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.models import alexnet

DATA, TOWER = 'data', 'tower'
KINDS = ('towers', 'owt')


def most_devices(batch_size: int) -> int:
  """The most devices among which a batch can be split evenly."""
  return max(n for n in range(1, len(jax.devices()) + 1) if batch_size % n == 0)


def _spread_units(config: ConfigDict | FrozenConfigDict) -> int:
  """Among how many devices every fully connected layer's units can be spread evenly; 0 if any number."""
  if config.parallelism != 'owt':
    return 0
  model = config.model
  hidden = [name for name in model.layers[:-1] if name.startswith('fc')]
  if not hidden:
    raise UserError('config.parallelism=owt spreads fully connected layers; this network has none')
  return math.gcd(
    *(alexnet.scaled(model[name].features, model.width, model.towers) for name in hidden)
  )


def make_mesh(config: ConfigDict | FrozenConfigDict, batch_size: int = 0) -> Mesh:
  """The mesh of `config.mesh`, `(data, tower)`; `(0, 0)` asks for the default.

  The data axis must divide `batch_size`, which is `config.train.batch_size` where left out, and under
  `config.parallelism = 'owt'` the units of the fully connected layers.

  The default is (n/2, 2) for an even number n of devices and two towers, else (n, 1). A mesh smaller
  than the machine uses the first devices; of several processes each must have one among them.

  Raises:
    UserError: not two whole numbers, more devices than there are, a tower axis the recipe cannot fill,
      a batch or layers that the data axis does not divide, or a process left without a device.
  """
  shape = config.mesh
  if config.parallelism not in KINDS:
    raise UserError(f'config.parallelism={config.parallelism!r}: choose one of {", ".join(KINDS)}')
  if len(shape) != 2 or not all(isinstance(n, int) and n >= 0 for n in shape):
    raise UserError(f'config.mesh={shape!r}: write two whole numbers, as in --config.mesh=1,2')
  data, tower = shape
  devices = jax.devices()
  most_towers = 1 if config.parallelism == 'owt' else config.model.towers
  batch_size = batch_size or config.train.batch_size
  units = _spread_units(config)
  if (data, tower) == (0, 0):
    tower = 2 if most_towers == 2 and len(devices) % 2 == 0 else 1
    data = len(devices) // tower
    while batch_size % data or units % data:  # a small batch cannot use them all
      data -= 1
  if data < 1 or tower not in (1, most_towers):
    kind = f'this network has {config.model.towers} tower(s)'
    if config.parallelism == 'owt':
      kind = 'parallelism owt splits no towers'
    raise UserError(
      f'config.mesh={data},{tower}: {kind}, so the second number must '
      f'be 1{" or 2" if most_towers == 2 else ""}, and the first at least 1'
    )
  if data * tower > len(devices):
    raise UserError(
      f'config.mesh={data},{tower} needs {data * tower} devices; there are {len(devices)}: '
      'choose a smaller mesh'
    )
  for what, number in (
    (f'config.train.batch_size={batch_size}', batch_size),
    (f'the number of units of the fully connected layers ({units} in common)', units),
  ):
    if number % data:
      raise UserError(
        f'{what} is not divisible by the data axis of config.mesh={data},{tower}: choose another mesh'
      )
  used = devices[: data * tower]
  idle = {d.process_index for d in devices} - {d.process_index for d in used}
  if idle:
    raise UserError(
      f'config.mesh={data},{tower} leaves process {min(idle)} of {jax.process_count()} without a '
      'device: choose a larger mesh or start fewer processes'
    )
  return jax.make_mesh((data, tower), (DATA, TOWER), (AxisType.Auto,) * 2, devices=used)


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
    if not owt or not layer.startswith('fc'):
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
