"""`--mode=describe`: layers, bytes on each device, collectives of a training step, and what they demand."""

import functools
import math
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
from alexnet_jax.evaluation import demand as demand_lib
from alexnet_jax.evaluation.collectives import collectives
from alexnet_jax.models.alexnet import DEFAULT_CLASSES
from alexnet_jax.steps import optimizer


def describe(
  config: ConfigDict, images_per_s: int | None = None, devices_per_host: int = 8
) -> dict[str, object]:
  """Describes the network of `config` and its training step; prints tables to stderr.

  It compiles the step that `train` runs, on the mesh that `train` would use. It needs no data, and holds
  no parameters, so that one machine can describe a mesh of hundreds of pretended devices.

  Args:
    config: a whole config.
    images_per_s: the speed of one device that is assumed, in images per second, or None.
    devices_per_host: the number of devices in one host that is assumed with it.

  Returns:
    `parameters`; `neurons` (see `neurons`); `macs` (multiply-adds of one image, forward); `mesh`,
    [data, tower]; `bytes_per_device` and `bytes_total` (parameters and momentum);
    `collectives` (see `collectives.collectives`); `bytes_sent_per_device` (see `demand.sent`); and with
    `images_per_s` also `demand` (see `demand.demand`).

  Raises:
    UserError: the config is invalid, or its network does not fit the devices.
  """
  config = ConfigDict(config)
  config.model.num_classes = config.model.num_classes or DEFAULT_CLASSES
  config_lib.validate(config)
  config = FrozenConfigDict(config)
  rows = models.layer_table(config.model)
  mesh = mesh_lib.make_mesh(config)
  if multihost.is_primary():
    print_layers(rows)
  state = steps.abstract_state(config, mesh)
  per_device, total = sharding.bytes_per_device((state.params, state.opt_state))
  found = collectives(compiled_step(config, mesh, state).as_text() or '', mesh)
  sent = sum(demand_lib.sent(row, mesh) for row in found)
  if multihost.is_primary():
    print_collectives(found, mesh)
  result: dict[str, Any] = {
    'parameters': sum(row['parameters'] for row in rows),
    'neurons': neurons(config.model, rows),
    'macs': sum(row['macs'] for row in rows),
    'mesh': list(mesh.shape.values()),
    'bytes_per_device': per_device,
    'bytes_total': total,
    'collectives': found,
    'bytes_sent_per_device': sent,
  }
  if images_per_s is not None:
    result['demand'] = demand_lib.demand(config, mesh, sent, images_per_s, devices_per_host)
    if multihost.is_primary():
      demand_lib.print_demand(result['demand'])
  return result


def neurons(model: FrozenConfigDict, rows: list[dict[str, Any]]) -> int:
  """Returns the number of outputs of all layers with weights, before pooling.

  For the paper's network it is 659,272, where the paper says 650,000. Its Figure 2 gives the first
  layer 253,440 outputs; 55 x 55 x 96 are 290,400 (docs/FACTS.md, section 1.2).

  Args:
    model: `config.model`.
    rows: its `models.layer_table`.
  """
  return sum(math.prod(row['output']) for row in rows if row['layer'] in model.layers)


def print_layers(rows: list[dict[str, Any]]) -> None:
  """Prints `models.layer_table` to stderr as a table."""
  line = '{:<12} {:>14} {:>12} {:>14}'
  print(line.format('layer', 'output', 'parameters', 'macs'), file=sys.stderr)
  for row in rows:
    shape = 'x'.join(map(str, row['output']))
    counts = f'{row["parameters"]:,}', f'{row["macs"]:,}'
    print(line.format(row['layer'], shape, *counts), file=sys.stderr)
  totals = (f'{sum(row[key] for row in rows):,}' for key in ('parameters', 'macs'))
  print(line.format('total', '', *totals), file=sys.stderr)


def print_collectives(found: list[dict[str, Any]], mesh: Mesh) -> None:
  """Prints `collectives` to stderr as a table.

  Each line has the number of collectives of a kind along an axis, the bytes of their results on one
  device, and the bytes that the device sends for them.
  """
  print('\ncollectives of one training step', file=sys.stderr)
  if not found:
    print('none: the step runs on one device', file=sys.stderr)
    return
  line = '{:<20} {:<12} {:>6} {:>14} {:>14}'
  print(line.format('kind', 'axis', 'count', 'bytes', 'bytes sent'), file=sys.stderr)
  for kind, axis in sorted({(row['kind'], row['axis']) for row in found}):
    rows = [row for row in found if (row['kind'], row['axis']) == (kind, axis)]
    sizes = sum(row['bytes'] for row in rows), sum(demand_lib.sent(row, mesh) for row in rows)
    print(line.format(kind, axis, len(rows), *(f'{size:,}' for size in sizes)), file=sys.stderr)


def compiled_step(
  config: FrozenConfigDict, mesh: Mesh, state: steps.TrainState
) -> jax.stages.Compiled:
  """Compiles the training step of `config` on `mesh`, the same one that `train` runs.

  Args:
    config: a whole, valid config.
    mesh: the mesh.
    state: a train state on `mesh`, live or abstract.

  Raises:
    UserError: as `steps.make_train_step` and `optimizer.rate_tree`.
  """
  batch, side = config.train.batch_size, config.data.canvas.size
  rows = functools.partial(jax.ShapeDtypeStruct, sharding=NamedSharding(mesh, P(mesh_lib.DATA)))
  replicated = functools.partial(
    jax.ShapeDtypeStruct, dtype=np.float32, sharding=NamedSharding(mesh, P())
  )
  arrays = {
    'image': rows((batch, side, side, 3), np.uint8),
    'label': rows((batch,), np.int32),
    'mask': rows((batch,), bool),
    'index': rows((batch,), np.int32),
  }
  shapes = (side, side, 3), (3, 3), (3,)
  statistics = Statistics(*map(replicated, shapes))  # type: ignore[arg-type]  # abstract arrays
  rates = optimizer.rate_tree(config.optim, state.params, 0.0, 0.0, 0.0)
  rates, colour = jax.tree.map(lambda _: replicated(()), (rates, 0.0))
  step = steps.make_train_step(config, mesh)
  return step.lower(state, arrays, rates, colour, statistics).compile()
