"""The device mesh: its default shape, the checks of a shape, and the mesh itself.

The mesh has axes ('data', 'tower'). A batch is split over 'data'. Every parameter with a leading tower
axis is split over 'tower', so on a (1, 2) mesh each of two devices holds one tower, as each of the
paper's two GPUs did. With `config.parallelism = 'owt'` ("one weird trick", arXiv 1404.5997) the mesh is
(n, 1), and the units of the fully connected layers are also split over 'data'. The steps run under
`jax.shard_map`. The older `jax.pmap` is now a wrapper around it in maintenance mode. The devices may
belong to several processes (`alexnet_jax.distributed.multihost`).
"""

import math

from absl import logging
import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh
from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.models import spec

DATA, TOWER = 'data', 'tower'


def make_mesh(config: ConfigDict | FrozenConfigDict, batch_size: int = 0) -> Mesh:
  """Makes the mesh of shape `config.mesh`, or of `default_shape` where that is (0, 0).

  A mesh smaller than the machine uses the first devices. With several processes, each of them must have
  at least one device in the mesh.

  Args:
    config: a whole config.
    batch_size: rows of the global batch, which the data axis must divide; 0 means
      `config.train.batch_size`.

  Raises:
    UserError: see `check_shape`; or a process has no device in the mesh.
  """
  batch_size = batch_size or config.train.batch_size
  shape = tuple(config.mesh)
  if shape == (0, 0):
    shape = default_shape(config, batch_size)
    _warn_of_idle_devices(shape, config, batch_size)
  check_shape(shape, config, batch_size)
  devices = jax.devices()[: math.prod(shape)]
  _check_processes(shape, devices)
  return Mesh(_in_order(shape, devices), (DATA, TOWER), axis_types=(AxisType.Auto,) * 2)


def _in_order(shape: tuple[int, int], devices: list[jax.Device]) -> np.ndarray:
  """Returns an array of devices of the given shape, in which neighbours are close to one another.

  `jax.make_mesh` raises NotImplementedError for some shapes of TPU slices, such as 8x2 on 4x4 chips, because
  it never splits an axis of the chips.
  """
  try:
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
  except (AssertionError, NotImplementedError, ValueError):  # the devices form no such mesh
    return np.asarray(devices).reshape(shape)


def default_shape(config: ConfigDict | FrozenConfigDict, batch_size: int) -> tuple[int, int]:
  """Returns the default shape (data, tower) for the devices that JAX sees.

  The tower axis is 2 for a two-tower network and an even number of devices, and 1 otherwise. The data axis
  takes the other devices, or as many as divide the batch and, with parallelism 'owt', the units.

  Raises:
    UserError: parallelism is 'owt' and the network has no hidden fully connected layers.
  """
  devices, units = len(jax.devices()), _spread_units(config)
  tower = 2 if _most_towers(config) == 2 and devices % 2 == 0 else 1
  data = devices // tower
  while batch_size % data or units % data:
    data -= 1
  return data, tower


def _warn_of_idle_devices(
  shape: tuple[int, int], config: ConfigDict | FrozenConfigDict, batch_size: int
) -> None:
  """Warns, on process 0, if a default shape leaves devices idle."""
  available, (data, tower) = len(jax.devices()), shape
  if data * tower == available or jax.process_index() != 0:
    return
  units = ' or the units of the fully connected layers' if config.parallelism == 'owt' else ''
  logging.warning(
    '%d of %d devices are idle: the default mesh is %d,%d, because config.train.batch_size=%d%s cannot be '
    'divided by %d; choose another batch size, or set config.mesh',
    available - data * tower,
    available,
    data,
    tower,
    batch_size,
    units,
    available // tower,
  )


def check_shape(
  shape: tuple[int, int], config: ConfigDict | FrozenConfigDict, batch_size: int
) -> None:
  """Checks that the network and the batch of `config` can be split over a mesh of this shape.

  Raises:
    UserError: the shape needs more devices than there are, the tower axis does not fit the network, or the
      data axis does not divide the batch or, with parallelism 'owt', the units.
  """
  data, tower = shape
  most_towers = _most_towers(config)
  if data < 1 or tower not in (1, most_towers):
    reason = f'this network has {config.model.towers} tower(s)'
    if config.parallelism == 'owt':
      reason = 'parallelism owt splits no towers'
    raise UserError(
      f'config.mesh={data},{tower}: {reason}, so the second number must '
      f'be 1{" or 2" if most_towers == 2 else ""}, and the first at least 1'
    )
  available = len(jax.devices())
  if data * tower > available:
    raise UserError(
      f'config.mesh={data},{tower} needs {data * tower} devices; there are {available}: '
      'choose a smaller mesh'
    )
  units = _spread_units(config)
  unit_words = f'the number of units of the fully connected layers ({units} in common)'
  for what, count in (
    (f'config.train.batch_size={batch_size}', batch_size),
    (unit_words, units),
  ):
    if count % data:
      raise UserError(
        f'{what} is not divisible by the data axis of config.mesh={data},{tower}: choose another mesh'
      )


def _check_processes(shape: tuple[int, int], devices: list[jax.Device]) -> None:
  """Raises UserError where a process has none of the mesh's devices."""
  unused = {d.process_index for d in jax.devices()} - {d.process_index for d in devices}
  if unused:
    raise UserError(
      f'config.mesh={shape[0]},{shape[1]} leaves process {min(unused)} of {jax.process_count()} without a '
      'device: choose a larger mesh or batch, or start fewer processes'
    )


def _most_towers(config: ConfigDict | FrozenConfigDict) -> int:
  """Returns the largest tower axis that the config allows."""
  return 1 if config.parallelism == 'owt' else config.model.towers


def _spread_units(config: ConfigDict | FrozenConfigDict) -> int:
  """Returns the greatest number of devices that divides the units of every fully connected layer evenly.

  It is 0, which every number divides, where the units are not split over devices.
  """
  if config.parallelism != 'owt':
    return 0
  model = config.model
  hidden = list(filter(spec.is_dense, model.layers[:-1]))
  if not hidden:
    raise UserError('config.parallelism=owt spreads fully connected layers; this network has none')
  return math.gcd(
    *(spec.features_per_tower(model[name].features, model.width, model.towers) for name in hidden)
  )
