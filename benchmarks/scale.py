"""Calculates what 8, 64 and 256 devices demand of the network, the hosts and the store; measures nothing.

  python -m benchmarks.scale [--images_per_s=5000] [--devices_per_host=8] [--batch=128] [--output=FILE]

The training step is compiled for pretended CPU devices in three layouts: two towers on pairs of devices, a
whole network on each device, and "one weird trick". Its collectives are read from the compiled program.
From their bytes and from the assumed speed of a device follow the demands (`alexnet_jax.evaluation.demand`).
Prints one line of JSON; the table in docs/devices.md is made from results/scale.json.
"""

import argparse
import collections
import json
import pathlib
import sys
from typing import Any

import jax

from alexnet_jax.config import recipes
from alexnet_jax.evaluation import describe
from benchmarks import machine

LAYOUTS = ('two towers', 'whole networks', 'one weird trick')


def make_config(layout: str, devices: int, batch: int):
  """Returns the config of a layout for a number of devices and a number of images on each of them."""
  recipe = 'owt' if layout == 'one weird trick' else 'original'
  mesh = (devices // 2, 2) if layout == 'two towers' else (devices, 1)
  changes = {'mesh': mesh, 'train.batch_size': devices * batch}
  if layout == 'one weird trick':
    changes['parallelism'] = 'owt'
  return recipes.apply(recipes.get(recipe), changes)


def scale(options: argparse.Namespace) -> list[dict[str, Any]]:
  """Returns the description of each layout on each number of devices."""
  rows = []
  for layout in LAYOUTS:
    for devices in options.devices:
      config = make_config(layout, devices, options.batch)
      if options.width != 1:
        config.model.width = options.width
      print(f'\n{layout}, {devices} devices', file=sys.stderr)
      found = describe.describe(config, options.images_per_s, options.devices_per_host)
      kinds = collections.Counter(row['kind'] for row in found.pop('collectives'))
      names = ('mesh', 'bytes_per_device', 'bytes_sent_per_device', 'demand')
      rows.append(
        {'layout': layout, 'devices': devices, 'batch_size': config.train.batch_size}
        | {name: found[name] for name in names}
        | {'collectives': dict(sorted(kinds.items()))}
      )
  return rows


def render(path: pathlib.Path) -> str:
  """Returns the results in a file as a Markdown table with a sentence on its assumptions."""
  result = json.loads(path.read_text())
  head = (
    'layout', 'devices', 'mesh', 'images a step', 'a step, ms', 'held by a device, MB', 'collectives',
    'sent by a device, MB a step', 'sent by a device, GB/s', 'a host decodes, images/s',
    'the store delivers, GB/s: JPEG; raw',
  )  # fmt: skip
  lines = [head, ('---',) * len(head)]
  for row in result['rows']:
    found = row['demand']
    lines.append(
      (
        row['layout'],
        f'{row["devices"]}',
        ','.join(map(str, row['mesh'])),
        f'{row["batch_size"]:,}',
        f'{1000 * found["step_s"]:.1f}',
        f'{row["bytes_per_device"] / 1e6:.0f}',
        f'{sum(row["collectives"].values())}',
        f'{row["bytes_sent_per_device"] / 1e6:.0f}',
        f'{found["sent_per_device"] / 1e9:.1f}',
        f'{found["host_images_per_s"]:,}',
        f'{found["store_jpeg"] / 1e9:.1f}; {found["store_raw"] / 1e9:.0f}',
      )
    )
  table = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
  said = (
    f'Assumed: a device computes {result["images_per_s"]:,} images per second, a host has '
    f'{result["devices_per_host"]} devices, and each device has {result["batch"]} images of a step '
    f'(float32, JAX {result["hardware"]["jax"]}, compiled for the CPU).'
  )
  return f'{said}\n\n{table}\n'


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  for name, default in (('images_per_s', 5000), ('devices_per_host', 8), ('batch', 128)):
    parser.add_argument(f'--{name}', type=int, default=default)
  parser.add_argument('--devices', type=int, nargs='+', default=[8, 64, 256])
  parser.add_argument('--width', type=float, default=1, help='factor of the widths of the network')
  parser.add_argument('--output', type=pathlib.Path, help='file to write the JSON to')
  options = parser.parse_args()
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', max(options.devices))
  output = options.output
  assumed = {name: value for name, value in vars(options).items() if name != 'output'}
  result = assumed | {'rows': scale(options), 'hardware': machine.hardware()}
  if output:
    output.write_text(json.dumps(result, indent=2) + '\n')
  print(json.dumps(result))


if __name__ == '__main__':
  main()
