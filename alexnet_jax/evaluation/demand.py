"""What a mesh demands of the network, the hosts and the store, if its devices have an assumed speed.

The model is simple. The devices compute all the time, at the assumed speed, and communication is hidden
behind the computation. The figures are what the machines must then be able to deliver; they predict no
speed.
"""

import math
import sys
from typing import Any

from jax.sharding import Mesh
from ml_collections import FrozenConfigDict

_JPEG_BYTES_PER_PIXEL = 0.5  # of photographs as JPEG of quality 95: 32 KB for 256 x 256 pixels
_CHANNELS = 3


def sent(collective: dict[str, Any], mesh: Mesh) -> int:
  """Returns the bytes that one device sends in a collective, if the devices pass them round a ring.

  With n devices, an all-gather and an all-to-all send (n - 1) / n of the bytes of the result, an
  all-reduce twice as many, a reduce-scatter n - 1 times the bytes of its result, which is an n-th of its
  operand, and a permutation the result once. No other way of passing them sends fewer bytes.

  Args:
    collective: an element of the list that `collectives.collectives` returns.
    mesh: its mesh.
  """
  n = math.prod(mesh.shape[axis] for axis in collective['axis'].split('+'))
  share = (n - 1) / n
  factor = {
    'all-gather': share,
    'all-to-all': share,
    'all-reduce': 2 * share,
    'reduce-scatter': n - 1,
    'collective-permute': 1,
  }[collective['kind']]
  return round(factor * collective['bytes'])


def demand(
  config: FrozenConfigDict, mesh: Mesh, bytes_sent: int, images_per_s: int, devices_per_host: int
) -> dict[str, Any]:
  """Returns what the mesh demands if every device is always busy.

  Args:
    config: a whole config; its batch and its canvas count.
    mesh: the mesh.
    bytes_sent: the bytes that one device sends in a step.
    images_per_s: images per second of the whole network on one device, forward and backward. Two
      devices with a tower each are taken to be twice as fast.
    devices_per_host: the number of devices in a host, which hold consecutive places of the mesh.

  Returns:
    The assumptions `images_per_s_per_device` and `devices_per_host`; `step_s`, the seconds of a step;
    `images_per_s` of all devices together; `sent_per_device`; and for the host with most of the batch
    `host_images_per_s`, which it decodes, `host_jpeg` and `host_raw`, which it reads from a store of that
    format, and `host_to_devices`, which it copies to its devices. The last four, `store_jpeg` and
    `store_raw`, which all hosts read together, are in bytes per second.
  """
  per_second = images_per_s * mesh.size
  step_s = config.train.batch_size / per_second
  tower = list(mesh.shape.values())[1]
  held = min(devices_per_host, mesh.size)
  # The two devices of a pair read the same images; a pair may lie in two hosts.
  rows_per_device = config.train.batch_size // (mesh.size // tower)
  pairs = max(
    len({place // tower for place in range(first, min(first + held, mesh.size))})
    for first in range(0, mesh.size, held)
  )
  host_images = pairs * rows_per_device / step_s
  hosts_images = host_images * -(-mesh.size // held)
  pixels = config.data.canvas.size**2
  jpeg, raw = _JPEG_BYTES_PER_PIXEL * pixels, _CHANNELS * pixels
  return {
    'images_per_s_per_device': images_per_s,
    'devices_per_host': held,
    'step_s': step_s,
    'images_per_s': per_second,
    'sent_per_device': round(bytes_sent / step_s),
    'host_images_per_s': round(host_images),
    'host_jpeg': round(host_images * jpeg),
    'host_raw': round(host_images * raw),
    'host_to_devices': round(held * rows_per_device / step_s * raw),
    'store_jpeg': round(hosts_images * jpeg),
    'store_raw': round(hosts_images * raw),
  }


def print_demand(found: dict[str, Any]) -> None:
  """Prints `demand` to stderr as a table."""
  speed, held = found['images_per_s_per_device'], found['devices_per_host']
  head = f'if each device computes {speed:,} images/s and a host has {held} device(s)'
  print(f'\ndemand, {head}', file=sys.stderr)
  rows = [
    ('a step', f'{1000 * found["step_s"]:,.1f} ms'),
    ('all devices', f'{found["images_per_s"]:,} images/s'),
    ('one device sends', _rate(found['sent_per_device'])),
    ('one host decodes', f'{found["host_images_per_s"]:,} images/s'),
    ('one host reads from a JPEG store', _rate(found['host_jpeg'])),
    ('one host reads from a raw store', _rate(found['host_raw'])),
    ('one host copies to its devices', _rate(found['host_to_devices'])),
    ('all hosts read from a JPEG store', _rate(found['store_jpeg'])),
    ('all hosts read from a raw store', _rate(found['store_raw'])),
  ]
  for name, value in rows:
    print(f'{name:<36} {value:>18}', file=sys.stderr)


def _rate(bytes_per_s: float) -> str:
  return f'{bytes_per_s / 1e9:,.2f} GB/s'
