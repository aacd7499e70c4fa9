"""`--mode=describe`: the layer table, what each device holds, and what the step says between devices."""

import functools
import math
import re
import sys
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np

from alexnet_jax import config as config_lib
from alexnet_jax import models, steps
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.distributed import multihost, sharding
from alexnet_jax.models.alexnet import DEFAULT_CLASSES
from alexnet_jax.steps import optimizer

_COLLECTIVE = re.compile(
  r'= (?P<shape>.+?) (?P<kind>all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all)'
  r'(?:-start)?\('
)
_ARRAY = re.compile(r'\b(?:f|bf|s|u|pred)(\d*)\[([\d,]*)\]')


def describe(config: ConfigDict) -> dict[str, object]:
  """Describes the network of `config` on the mesh in force; prints the layer table to stderr.

  Returns:
    `parameters`, `neurons` (outputs of all layers, before pools), `macs` (multiply-adds, one image forward),
    `mesh` [data, tower], `bytes_per_device` and `bytes_total` (parameters and momentum, of the live state),
    `collectives` of the compiled training step: `[{'kind', 'axis', 'bytes'}]`, bytes of the result on one
    device.
  """
  config = ConfigDict(config)
  config.model.num_classes = config.model.num_classes or DEFAULT_CLASSES
  config_lib.validate(config)
  config = FrozenConfigDict(config)
  rows = models.layer_table(config.model)
  mesh = mesh_lib.make_mesh(config)
  if multihost.is_primary():
    print_table(rows)
  state = steps.init_state(config, mesh)
  per_device, total = sharding.bytes_per_device((state.params, state.opt_state))
  return {
    'parameters': sum(row['parameters'] for row in rows),
    'neurons': neurons(config.model, rows),
    'macs': sum(row['macs'] for row in rows),
    'mesh': list(mesh.shape.values()),
    'bytes_per_device': per_device,
    'bytes_total': total,
    'collectives': collectives(compiled_step(config, mesh, state).as_text() or '', mesh),
  }


def neurons(model: FrozenConfigDict, rows: list[dict[str, Any]]) -> int:
  """The outputs of the layers of `config.model` added up, from its `models.layer_table`.

  The paper's 650,000 are 659,272: its Figure 2 has 253,440 in the first layer, which are 55 x 55 x 96 =
  290,400 (FACTS section 1.2).
  """
  return sum(math.prod(row['output']) for row in rows if row['layer'] in model.layers)


def print_table(rows: list[dict[str, Any]]) -> None:
  """Prints `models.layer_table` for people, to stderr."""
  line = '{:<12} {:>14} {:>12} {:>14}'
  print(line.format('layer', 'output', 'parameters', 'macs'), file=sys.stderr)
  for row in rows:
    shape = 'x'.join(map(str, row['output']))
    print(
      line.format(row['layer'], shape, f'{row["parameters"]:,}', f'{row["macs"]:,}'),
      file=sys.stderr,
    )
  totals = (f'{sum(row[key] for row in rows):,}' for key in ('parameters', 'macs'))
  print(line.format('total', '', *totals), file=sys.stderr)


def compiled_step(
  config: FrozenConfigDict, mesh: Mesh, state: steps.TrainState
) -> jax.stages.Compiled:
  """The training step of `config` on `mesh`, compiled as `train` runs it."""
  batch, side = config.train.batch_size, config.data.canvas.size
  rows = functools.partial(jax.ShapeDtypeStruct, sharding=NamedSharding(mesh, P(mesh_lib.DATA)))
  everywhere = functools.partial(
    jax.ShapeDtypeStruct, dtype=np.float32, sharding=NamedSharding(mesh, P())
  )
  arrays = {
    'image': rows((batch, side, side, 3), np.uint8),
    'label': rows((batch,), np.int32),
    'mask': rows((batch,), bool),
    'index': rows((batch,), np.int32),
  }
  shapes = (side, side, 3), (3, 3), (3,)
  statistics = Statistics(*map(everywhere, shapes))  # type: ignore[arg-type]  # not computed
  rates = optimizer.rate_tree(config.optim, state.params, 0.0, 0.0, 0.0)
  rates, colour = jax.tree.map(lambda _: everywhere(()), (rates, 0.0))
  step = steps.make_train_step(config, mesh)
  return step.lower(state, arrays, rates, colour, statistics).compile()


def _numbers(text: str) -> list[int]:
  return [int(n) for n in re.findall(r'\d+', text)]


def _replica_groups(line: str, devices: int) -> list[list[int]]:
  """The groups of devices that talk to each other, from any of the ways HLO writes them.

  Raises:
    ValueError: it is written in yet another way.
  """
  listed = re.search(r'replica_groups=\{((?:\{[\d, ]*\},? ?)*)\}', line)
  if listed:
    groups = re.findall(r'\{([\d, ]*)\}', listed[1])
    return list(map(_numbers, groups)) or [list(range(devices))]
  iota = re.search(r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', line)
  if iota:
    shape, source = map(_numbers, iota.group(1, 2))
    ids = np.arange(math.prod(source)).reshape(source)
    return (ids.transpose(_numbers(iota[3])) if iota[3] else ids).reshape(shape).tolist()
  named = re.search(r"replica_groups=mesh\[((?:'\w+'=\d+,?)+)\] \{((?:'\w+',?)+)\}", line)
  if named:
    names = re.findall(r"'(\w+)'", named[1])
    talking = [names.index(name) for name in re.findall(r"'(\w+)'", named[2])]
    sizes = [int(size) for size in re.findall(r'=(\d+)', named[1])]
    ids = np.moveaxis(np.arange(math.prod(sizes)).reshape(sizes), talking, range(-len(talking), 0))
    return ids.reshape(-1, math.prod(sizes[i] for i in talking)).tolist()
  pairs = re.search(r'source_target_pairs=\{(.*?)\}\}', line)
  if pairs:
    return [_numbers(pairs[1])]
  raise ValueError(f'groups of devices are written in an unknown way: {line.strip()[:300]}')


def _axis(groups: list[list[int]], mesh: Mesh) -> str:
  """The mesh axis, or axes joined by '+', along which groups of device places run."""
  data, tower = mesh.shape.values()
  places = np.arange(data * tower).reshape(data, tower)
  found = sorted(sorted(group) for group in groups)
  for name, rows in (
    (mesh_lib.TOWER, places.tolist()),
    (mesh_lib.DATA, places.T.tolist()),
  ):
    if found == sorted(rows):
      return name
  return f'{mesh_lib.DATA}+{mesh_lib.TOWER}'


def _bytes(shape: str, started: bool) -> int:
  """Bytes of an HLO shape, of an array or a tuple; a -start form lists operands before results."""
  arrays = _ARRAY.findall(shape)
  if started and len(arrays) > 1:
    arrays = arrays[len(arrays) // 2 :]
  return sum(
    math.prod(int(n) for n in dims.split(',') if n) * int(bits or 8) // 8 for bits, dims in arrays
  )


def collectives(hlo: str, mesh: Mesh) -> list[dict[str, object]]:
  """The collectives of a compiled program: `[{'kind', 'axis', 'bytes'}]`.

  Groups of one device are left out; tuple and -start forms count once. Device places in HLO are places
  in the mesh, row by row.

  Raises:
    ValueError: a collective cannot be read.
  """
  found = []
  for line in hlo.splitlines():
    match = _COLLECTIVE.search(line)
    if not match:
      continue
    groups = _replica_groups(line, mesh.size)
    if all(len(group) < 2 for group in groups):
      continue
    # all-reduce-start has the shape of its result; the others list their operands first.
    started = '-start(' in match.group(0) and match['kind'] != 'all-reduce'
    found.append(
      {
        'kind': match['kind'],
        'axis': _axis(groups, mesh),
        'bytes': _bytes(match['shape'], started),
      }
    )
  return found
