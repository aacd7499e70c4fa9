"""Lowers the training step of two devices for XLA's GPU compiler, on a host without a GPU.

The step is traced over a mesh of CPU devices, and `jax.export` lowers it to StableHLO for the platform
`cuda`. The layers are those of the host's own backend: on a host without a GPU, the layers for CPUs. This
proves that JAX can lower every operation of that step for CUDA. It also proves that the program contains
exactly the collectives over the tower axis that the paper's two GPUs need. It does not prove that XLA's GPU
compiler keeps them, that NCCL can run them, or how long they take, because that needs two GPUs.
"""

from collections import Counter
import re
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np

from alexnet_jax import steps
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.steps import optimizer
from benchmarks.gpu import plan, racers

_COLLECTIVE = re.compile(
  r'stablehlo\.(all_gather|all_reduce|reduce_scatter|all_to_all|collective_permute)"'
  r'.*?(?:replica_groups|source_target_pairs) = dense<([^>]*)> : tensor<(\d+)x(\d+)xi64>'
)


def lowered(config: FrozenConfigDict, mesh: Mesh) -> Any:
  """Returns the training step, exported for CUDA."""

  def whole(tree, spec):
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )

  batch, side = config.train.batch_size, config.data.canvas.size
  arrays = {
    'image': np.zeros((batch, side, side, 3), np.uint8),
    'label': np.zeros(batch, np.int32),
    'mask': np.zeros(batch, bool),
    'index': np.zeros(batch, np.int32),
  }
  state = steps.abstract_state(config, mesh)
  rates = optimizer.rate_tree(config.optim, state.params, 0.0, 0.0, 0.0)
  shapes = ((side, side, 3), (3, 3), (3,))
  statistics = Statistics(*(np.zeros(shape, np.float32) for shape in shapes))
  rates, colour = jax.tree.map(np.float32, (rates, 0.0))
  inputs = whole(arrays, P(mesh_lib.DATA)), *(whole(x, P()) for x in (rates, colour, statistics))
  step = steps.make_train_step(config, mesh)
  return jax.export.export(step, platforms=['cuda'])(state, *inputs)


def collectives(text: str, mesh: Mesh) -> Counter:
  """Counts the collectives of a StableHLO program by kind and mesh axis.

  Groups of one device are not counted.
  """
  data, tower = mesh.shape.values()
  device_numbers = np.arange(data * tower).reshape(data, tower)
  axes = {
    str(device_numbers.tolist()): mesh_lib.TOWER,
    str(device_numbers.T.tolist()): mesh_lib.DATA,
  }
  found: Counter = Counter()
  for kind, groups, rows, columns in _COLLECTIVE.findall(text):
    if int(columns) < 2:
      continue
    numbers = [int(n) for n in re.findall(r'\d+', groups)]
    shape = np.reshape(numbers, (int(rows), int(columns))).tolist()
    found[f'{kind} over {axes.get(str(shape), "other devices")}'] += 1
  return found


def check(context: plan.Context) -> dict[str, Any]:
  """Lowers the step of the paper's network for two GPUs and for two pairs, and counts collectives.

  Raises:
    RuntimeError: the collectives differ from those of the paper: an all-gather into conv3, fc6 and fc7, a
      reduce-scatter for each in the backward pass, and a sum at fc8.
  """
  result: dict[str, Any] = {'platform': 'cuda', 'jax': jax.__version__}
  for shape in ((1, 2), (2, 2)):
    config = ConfigDict(racers.network(context.small, 'bfloat16', 8))
    config.mesh = shape
    config = FrozenConfigDict(config)
    mesh = mesh_lib.make_mesh(config)
    exported = lowered(config, mesh)
    found = collectives(exported.mlir_module(), mesh)
    result[f'{shape[0]},{shape[1]}'] = dict(found)
    result.setdefault('stablehlo_bytes', len(exported.mlir_module_serialized))
    expected = {'all_gather over tower': 3, 'reduce_scatter over tower': 3}
    between_towers = {name: n for name, n in found.items() if not name.startswith('all_reduce')}
    if between_towers != expected or not found['all_reduce over tower']:
      raise RuntimeError(
        f'mesh {shape}: the collectives are {dict(found)}, not {expected} and sums'
      )
  return result
