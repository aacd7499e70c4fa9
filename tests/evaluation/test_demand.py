"""The demands of a mesh follow from the collectives, the batch and an assumed speed of a device."""

from helpers import get
import jax
from ml_collections import FrozenConfigDict
import pytest

from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.evaluation import demand as demand_lib


def mesh_of(data: int, tower: int):
  return mesh_lib.make_mesh(get('original', mesh=(data, tower)))


def ring(kind: str, devices: int, operand: int) -> int:
  """Returns the bytes that a device sends, counted message by message, for an operand on each device."""
  part = operand // devices
  if kind == 'reduce-scatter':
    return sum(part for _ in range(devices - 1))  # one part goes round, and each device adds to it
  if kind == 'all-gather':
    return sum(operand for _ in range(devices - 1))  # the operand of each device goes round
  assert kind == 'all-reduce'  # a reduce-scatter, then an all-gather of the parts
  return ring('reduce-scatter', devices, operand) + ring('all-gather', devices, part)


@pytest.mark.parametrize(
  ('kind', 'axis', 'devices'),
  [
    ('all-reduce', 'data', 4),
    ('all-reduce', 'data+tower', 8),
    ('all-gather', 'tower', 2),
    ('reduce-scatter', 'data', 4),
  ],
)
def test_bytes_sent_are_those_of_a_ring(kind, axis, devices):
  operand = 2400
  size = {'all-reduce': 1.0, 'all-gather': devices, 'reduce-scatter': 1 / devices}[kind] * operand
  row = {'kind': kind, 'axis': axis, 'bytes': int(size)}
  assert demand_lib.sent(row, mesh_of(4, 2)) == ring(kind, devices, operand)


def test_demands_of_pairs_in_whole_hosts():
  config = FrozenConfigDict(get('original', mesh=(4, 2), train__batch_size=64))
  found = demand_lib.demand(config, mesh_of(4, 2), 10_000_000, images_per_s=100, devices_per_host=4)
  assert found['images_per_s'] == 800 and found['step_s'] == 64 / 800
  assert found['sent_per_device'] == 125_000_000
  assert found['host_images_per_s'] == 400  # two of four pairs
  assert found['host_raw'] == 400 * 3 * 256**2 and found['host_jpeg'] == found['host_raw'] / 6
  assert (
    found['host_to_devices'] == 2 * found['host_raw']
  )  # both devices of a pair see the same images
  assert found['store_raw'] == 2 * found['host_raw']


def test_hosts_that_share_a_pair_read_its_images_twice():
  config = FrozenConfigDict(get('original', mesh=(1, 2), train__batch_size=64))
  found = demand_lib.demand(config, mesh_of(1, 2), 0, images_per_s=100, devices_per_host=1)
  assert found['images_per_s'] == found['host_images_per_s'] == 200
  assert found['store_raw'] == 2 * found['host_raw']


def test_the_table_names_the_assumed_speed(capsys):
  config = FrozenConfigDict(get('original', mesh=(len(jax.devices()), 1), train__batch_size=64))
  mesh = mesh_of(len(jax.devices()), 1)
  found = demand_lib.demand(config, mesh, 10**9, images_per_s=1000, devices_per_host=8)
  demand_lib.print_demand(found)
  err = capsys.readouterr().err
  assert 'if each device computes 1,000 images/s and a host has 8 device(s)' in err
  assert '8,000 images/s' in err and '125.00 GB/s' in err
