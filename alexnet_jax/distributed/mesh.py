"""The mesh and the sharding rules: the one place that knows how many devices there are.

The mesh has axes ('data', 'tower'). A batch is split over 'data'; every parameter with a leading tower
axis is split over 'tower', so that on (1, 2) each of two devices holds one tower, as each of the
paper's two GPUs did. With `config.parallelism = 'owt'` ("one weird trick", arXiv 1404.5997) the mesh is
(n, 1) and the units of the fully connected layers are spread over 'data' too. Steps run under
`jax.shard_map`; `jax.pmap`, which used to do this, is now a wrapper around it in maintenance mode.
The devices may belong to several processes (`alexnet_jax.distributed.multihost`).
"""

import math

import jax
from jax.sharding import AxisType, Mesh
from ml_collections import ConfigDict, FrozenConfigDict

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
  hidden = list(filter(alexnet.is_dense, model.layers[:-1]))
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
  units = _spread_units(config)  # 0, which every number divides, where there is nothing to spread
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
      'device: choose a larger mesh or batch, or start fewer processes'
    )
  return jax.make_mesh((data, tower), (DATA, TOWER), (AxisType.Auto,) * 2, devices=used)
