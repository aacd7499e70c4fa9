"""The mesh has the right default shape, and impossible shapes are errors."""

from helpers import get
import jax
import pytest

from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.errors import UserError


@pytest.mark.parametrize(
  ('variant', 'batch', 'expected'),
  [
    ('paper', 8, (4, 2)),
    ('paper', 6, (3, 2)),  # a small batch cannot use all devices
    ('paper', 128, (4, 2)),
    ('torchvision', 8, (8, 1)),
    ('paper+one_gpu', 4, (4, 1)),
  ],
)
def test_default_mesh(variant, batch, expected, caplog):
  """With n devices, here 8, the default is (n/2, 2) for two towers and (n, 1) for one.

  A warning says that devices are idle.
  """
  mesh = mesh_lib.make_mesh(get(variant, train__batch_size=batch))
  assert tuple(mesh.shape.items()) == (('data', expected[0]), ('tower', expected[1]))
  idle = 8 - mesh.size
  assert [f'{idle} of 8 devices are idle' in one for one in caplog.messages] == [True] * bool(idle)


def test_default_mesh_of_one_weird_trick():
  """For `parallelism=owt`, the data axis divides the batch and the 2 x 2048 units. The tower axis is 1."""
  assert mesh_lib.make_mesh(get('paper', parallelism='owt')).shape == {'data': 8, 'tower': 1}
  odd = get('paper', parallelism='owt', model__fc7__features=2 * 12)
  assert mesh_lib.make_mesh(odd).shape == {'data': 4, 'tower': 1}


def test_a_smaller_mesh_uses_the_first_devices():
  mesh = mesh_lib.make_mesh(get(mesh=(2, 2)))
  assert mesh.devices.flatten().tolist() == jax.devices()[:4]


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'mesh': (2, 2)}, 'owt splits no towers'),
    ({'mesh': (8, 1), 'model__fc6__features': 2 * 12}, r'\(4 in common\) is not divisible'),
    ({'mesh': (3, 1)}, 'batch_size=128 is not divisible'),
    ({'model__layers': ('conv1', 'fc8')}, 'this network has none'),
  ],
)
def test_invalid_meshes_for_one_weird_trick_are_refused(overrides, message):
  with pytest.raises(UserError, match=message):
    mesh_lib.make_mesh(get('paper', **({'parallelism': 'owt'} | overrides)))


@pytest.mark.parametrize(
  ('variant', 'mesh', 'batch', 'message'),
  [
    ('paper', (8, 2), 128, 'needs 16 devices; there are 8'),
    ('paper', (9, 1), 9, 'needs 9 devices; there are 8'),
    ('paper', (3, 2), 128, 'not divisible'),
    ('torchvision', (1, 2), 128, r'1 tower\(s\)'),
    ('paper', (2, 4), 128, r'2 tower\(s\)'),
    ('paper', (0, 2), 128, 'at least 1'),
  ],
)
def test_invalid_meshes_are_refused(variant, mesh, batch, message):
  config = get(variant, train__batch_size=batch, mesh=mesh)
  with pytest.raises(UserError, match=message):
    mesh_lib.make_mesh(config)
