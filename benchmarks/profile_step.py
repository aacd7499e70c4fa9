"""Measures the share of each layer in the time of a training step, forward and backward.

  python -m benchmarks.profile_step [--batch=128] [--recipe=paper] [--dtype=float32] [--width=1.0]
                                    [--rounds=5] [--trace=FOLDER]

Traces some steps of the compiled program and sums the durations of the operations of each layer.
Operations of different layers run concurrently, so the milliseconds are scaled to add up to the duration
of a step. `gflop_per_s` counts the layer's matrix products and convolutions alone. Prints a table to
stderr and one line of JSON, in which `ratio.fair` compares the speed of the whole step with that of PyTorch
under our memory setting, as `benchmarks.train_step` does. --trace keeps the trace for TensorBoard's profile
plugin or https://ui.perfetto.dev.
"""

from collections import Counter
import json
import os
import pathlib
import re
import statistics
import sys
import tempfile
import time

import jax

from alexnet_jax import models
from benchmarks import machine, sides

_STEPS = 3
_INSTRUCTION = re.compile(r'%?([\w.\-]+) = .*metadata=\{.*?op_name="([^"]*)"')
_LAYER = re.compile(
  r'/((?:conv|local|fc)(\d+))(?:/(act|norm|map_norm|pool|avg_pool|dropout))?(?:/|$)'
)


def layer_of(op_name: str) -> tuple[str, str]:
  """Returns the layer, such as conv1 or norm1, and the direction of an operation, from its name in JAX."""
  found = _LAYER.search(op_name)
  if not found:
    return 'rest: update, loss, input', 'backward' if 'transpose(' in op_name else 'forward'
  layer = f'{found[3]}{found[2]}' if found[3] else found[1]
  return layer, 'backward' if 'transpose(' in op_name else 'forward'


def operations(folder: pathlib.Path, program: str) -> Counter:
  """Returns the nanoseconds of each layer and direction of a program, from the trace in a folder."""
  names = dict(_INSTRUCTION.findall(program))
  inner = set(re.findall(r'%?([\w.\-]+) = [^\n]*? (?:while|call|conditional)\(', program))
  spent = Counter()
  path = max(folder.rglob('*.xplane.pb'), key=lambda found: found.stat().st_mtime)
  for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
    for line in plane.lines:
      for event in line.events:
        if event.name in names and event.name not in inner:
          spent[layer_of(names[event.name])] += event.duration_ns
  return spent


def flops_of(table: list[dict[str, object]], batch: int) -> dict[tuple[str, str], float]:
  """Returns the FLOP of the products of each layer and direction."""
  rows = [row for row in table if row['macs']]
  found = {}
  for i, row in enumerate(rows):
    found[row['layer'], 'forward'] = 2.0 * batch * row['macs']
    found[row['layer'], 'backward'] = (2.0 if i == 0 else 4.0) * batch * row['macs']
  return found


def fair_ratio(args, config, ours: sides.Ours, inputs: list[sides.Batch]) -> dict[str, object]:
  """Returns the speed of our step over that of PyTorch's under our memory setting, if it is installed."""
  if not sides.has_peer(config):
    return {}
  from benchmarks import torch_peer

  device, work = torch_peer.ready(os.cpu_count()), torch_peer.Trainer.step
  small = sides.config_of(args, min(32, args.batch))
  form, _ = torch_peer.fastest_form(small, ours.params(), device, work)
  peer = torch_peer.Trainer(config, ours.params(), form, device)
  speeds = sides.race({'ours': ours.step, 'fair': peer.step}, inputs, args.rounds)
  ratios = [a / b for a, b in zip(speeds['ours'], speeds['fair'], strict=True)]
  return {'ratio': {'fair': round(statistics.median(ratios), 3)}}


def main() -> None:
  parser = sides.flags(__doc__)
  parser.add_argument('--trace', help='folder in which the trace is kept')
  args = parser.parse_args()
  sides.prepare(args)
  config = sides.config_of(args, args.batch)
  inputs = sides.batches(config)
  ours = sides.Ours(config)
  ours.compile_step(inputs[0])
  sides.rate(ours.step, inputs, 2)
  folder = pathlib.Path(args.trace or tempfile.mkdtemp())
  with jax.profiler.trace(str(folder)):
    began = time.perf_counter()
    for i in range(_STEPS):
      ours.step(inputs[i])
    step_ms = (time.perf_counter() - began) * 1e3 / _STEPS
  spent = operations(folder, ours.train_step.as_text())
  scale = step_ms / sum(spent.values())
  flops = flops_of(models.layer_table(config.model), args.batch)
  rows = [
    {
      'layer': layer,
      'direction': direction,
      'ms': round(ns * scale, 1),
      'share': round(ns * scale / step_ms, 3),
      'gflop_per_s': round(flops[layer, direction] / (ns * scale) / 1e6, 1)
      if (layer, direction) in flops
      else None,
    }
    for (layer, direction), ns in spent.most_common()
  ]
  for row in rows:
    print(
      '{layer:26} {direction:9} {ms:8.1f} ms {share:7.1%} {gflop_per_s}'.format(**row),
      file=sys.stderr,
    )
  result = {'step_ms': round(step_ms, 1), 'batch': args.batch, 'dtype': args.dtype, 'layers': rows}
  result |= fair_ratio(args, config, ours, inputs)
  result['matmul_gflop_per_s'] = round(machine.jax_matmul_rate(args.dtype) / 1e9, 1)
  print(json.dumps({**result, 'hardware': machine.hardware()}))


if __name__ == '__main__':
  main()
