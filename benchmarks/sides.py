"""Shared code of the network benchmarks: this project's side, the inputs, and the alternating timing."""

import argparse
from collections.abc import Callable, Mapping
import functools
import importlib.util
import math
import os
import statistics
import sys
import time

import jax
from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np

from alexnet_jax import config as config_lib
from alexnet_jax import models, steps
from alexnet_jax.config import recipes
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.distributed import sharding
from alexnet_jax.models import layers
from alexnet_jax.steps import optimizer
from alexnet_jax.utils import memory
from benchmarks import machine

CLASSES = 1000
_INPUTS = (
  4  # number of batches that take turns, so that no step repeats the batch of the step before
)
_PAUSE = 0.5  # seconds before each turn of a race
_TURN = 1.0  # approximate seconds of a turn; at least two steps are timed

Batch = Mapping[str, np.ndarray]


def flags(description: str) -> argparse.ArgumentParser:
  """Returns a parser with the flags that all network benchmarks share."""
  parser = argparse.ArgumentParser(
    description=description, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    '--recipe',
    default='paper',
    help='a recipe of configs/alexnet.py, or a config file such as configs/cifar10.py:relu',
  )
  parser.add_argument('--batch', type=int, default=128)
  parser.add_argument('--dtype', default='float32', choices=('float32', 'bfloat16'))
  parser.add_argument('--mesh', default='1,1', help='number of devices along the axes data,tower')
  parser.add_argument(
    '--micro_batches',
    type=int,
    default=1,
    help='number of micro-batches that a batch is divided into',
  )
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument(
    '--width', type=float, default=1.0, help='width of the network: config.model.width'
  )
  return parser


def config_of(args: argparse.Namespace, batch: int, dropout: bool = True) -> FrozenConfigDict:
  """Returns the config of a recipe without augmentation, on images of the network's input size."""
  from_file = '.py' in args.recipe
  config = config_lib.load_file(args.recipe) if from_file else recipes.get(args.recipe)
  mesh = tuple(map(int, args.mesh.split(',')))
  rate = config.model.dropout.rate if dropout else 0.0
  overrides = {
    'mesh': mesh,
    'micro_batches': args.micro_batches,
    'model': {
      'num_classes': CLASSES,
      'dtype': args.dtype,
      'width': args.width,
      'dropout': {'rate': rate},
    },
    'data': {'canvas': {'size': config.model.input_size}},
    'augment': {
      'crop': 'centre',
      'flip': False,
      'mean': 'none',
      'std': (1.0, 1.0, 1.0),
      'colour': 0.0,
    },
    'optim': {'rate': 1e-4, 'bias_rate': 1e-4, 'scaling': {'rule': 'none'}},
    'train': {'batch_size': batch},
  }
  config.update(ConfigDict(overrides))
  config_lib.validate(config)
  return FrozenConfigDict(config)


def prepare(args: argparse.Namespace) -> None:
  """Sets up memory and, on a CPU, as many devices as the mesh needs. Call it before JAX is used."""
  memory.keep_freed_memory()
  data, tower = map(int, args.mesh.split(','))
  if 'JAX_NUM_CPU_DEVICES' not in os.environ:
    jax.config.update('jax_num_cpu_devices', data * tower)


def batches(config: FrozenConfigDict) -> list[Batch]:
  """Returns batches of random uint8 images `[B, S, S, 3]` and labels."""
  rng = np.random.default_rng(0)
  size, count = config.model.input_size, config.train.batch_size
  return [
    {
      'image': rng.integers(0, 256, (count, size, size, 3), np.uint8),
      'label': rng.integers(0, CLASSES, count).astype(np.int32),
      'mask': np.ones(count, bool),
      'index': np.arange(count, dtype=np.int32),
    }
    for _ in range(_INPUTS)
  ]


class Ours:
  """This project's network, its state and its compiled functions."""

  def __init__(self, config: FrozenConfigDict):
    self.config, self.mesh = config, mesh_lib.make_mesh(config)
    self.state = steps.init_state(config, self.mesh)
    size = config.data.canvas.size
    statistics = Statistics(
      np.zeros((size, size, 3), np.float32), np.eye(3, dtype=np.float32), np.ones(3, np.float32)
    )
    self.statistics = sharding.replicate(self.mesh, statistics)
    rates = optimizer.rate_tree(config.optim, self.state.params, 1e-4, 1e-4, 0.0)
    inputs = jax.tree.map(np.float32, (rates, 0.0))
    self.rates, self.colour = sharding.replicate(self.mesh, inputs)
    self.compile_s = {}

  def params(self) -> dict:
    """Returns copies of the parameters on the host."""
    return jax.tree.map(np.array, self.state.params)

  def _compiled(self, name: str, jitted: Callable, *args) -> Callable:
    began = time.perf_counter()
    compiled = jitted.lower(*args).compile()
    self.compile_s[name] = round(time.perf_counter() - began, 2)
    return compiled

  def compile_step(self, batch: Batch) -> None:
    """Compiles the training step for batches of this shape."""
    batch = sharding.shard_batch(self.mesh, batch)
    jitted = steps.make_train_step(self.config, self.mesh)
    args = (self.state, batch, self.rates, self.colour, self.statistics)
    self.train_step = self._compiled('train_step', jitted, *args)

  def step(self, batch: Batch) -> float:
    """Trains one step and returns the loss."""
    batch = sharding.shard_batch(self.mesh, batch)
    self.state, loss = self.train_step(self.state, batch, self.rates, self.colour, self.statistics)
    return float(loss)

  def compile_predict(self, batch: Batch) -> None:
    """Compiles the prediction of the centre view."""
    images = sharding.shard_batch(self.mesh, {'image': batch['image']})['image']
    jitted = steps.make_predict_step(self.config, self.mesh, 1)
    args = (self.state.params, self.state.batch_stats, images, self.statistics.mean_image)
    self.predict = self._compiled('predict', jitted, *args)

  def probabilities(self, images: np.ndarray) -> np.ndarray:
    """Returns probabilities, float32 `[B, classes]`, for uint8 `[B, S, S, 3]`."""
    images = sharding.shard_batch(self.mesh, {'image': images})['image']
    return np.asarray(
      self.predict(self.state.params, self.state.batch_stats, images, self.statistics.mean_image)
    )


def rate(work: Callable[[Batch], object], inputs: list[Batch], count: int = _INPUTS) -> float:
  """Returns the images per second of `count` calls of `work`, each of which waits for its result."""
  began = time.perf_counter()
  for i in range(count):
    work(inputs[i % len(inputs)])
  return count * len(inputs[0]['image']) / (time.perf_counter() - began)


def race(
  sides: Mapping[str, Callable[[Batch], object]], inputs: list[Batch], rounds: int
) -> dict[str, list[float]]:
  """Times the sides alternately; returns the images per second of each in every round after a warm-up.

  The threads of a side wait actively for some time after its last step, and the next side's first step finds
  none of its data in the caches. A turn therefore begins with a pause and a step that is not timed.
  """
  speeds = {name: [] for name in sides}
  for i in range(rounds + 1):
    for name, work in sides.items():
      time.sleep(_PAUSE)
      speed = rate(work, inputs, 1)
      count = max(2, round(_TURN * speed / len(inputs[0]['image'])))
      speed = rate(work, inputs, count)
      if i:
        speeds[name].append(speed)
    print(
      f'round {i} of {rounds}',
      {n: round(s[-1], 1) for n, s in speeds.items() if s},
      file=sys.stderr,
    )
  return speeds


def train_flops(table: list[dict[str, object]]) -> float:
  """Returns the FLOP per image of a training step: forward, and the gradients of kernels and inputs.

  The first layer needs no gradient of its input. `table` comes from `models.layer_table`.
  """
  macs = [row['macs'] for row in table if row['parameters']]
  return 2.0 * (3 * sum(macs) - macs[0])


def has_torch() -> bool:
  """Returns whether PyTorch is installed; prints a note if it is not."""
  if importlib.util.find_spec('torch'):
    return True
  print('PyTorch is not installed (pip install torch): no peer', file=sys.stderr)
  return False


def has_peer(config: FrozenConfigDict) -> bool:
  """Returns whether PyTorch is installed and can compute the network; prints a note if not."""
  if any(name.startswith('local') for name in config.model.layers):
    print('PyTorch has no locally connected layers: no peer', file=sys.stderr)
    return False
  if config.model.gray:
    print('the peer has no networks that see grey images: no peer', file=sys.stderr)
    return False
  return has_torch()


def with_reference_layers(config: FrozenConfigDict, batch: Batch) -> Callable[[Batch], float]:
  """Returns the training step compiled with the layers of `models.layers.reference` alone."""
  ours = Ours(config)
  with layers.reference_only():
    ours.compile_step(batch)
  return ours.step


def activation_bytes(config: FrozenConfigDict) -> int:
  """Returns the bytes of the outputs of all layers and operations for a batch."""
  module, size = models.create(config.model), config.model.input_size
  images = jax.ShapeDtypeStruct((config.train.batch_size, size, size, 3), np.float32)
  variables = jax.eval_shape(module.init, jax.random.key(0), images)
  apply = functools.partial(module.apply, capture_intermediates=True, mutable=['intermediates'])
  _, state = jax.eval_shape(apply, variables, images)
  return _bytes(state['intermediates'])


def _bytes(tree) -> int:
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def costs(ours: Ours, compiled: jax.stages.Compiled) -> dict[str, object]:
  """Returns the compile time and the temporary memory of a program, with two sizes to compare it with."""
  return {
    'compile_s': ours.compile_s,
    'temporary_bytes': compiled.memory_analysis().temp_size_in_bytes,
    'activation_bytes': activation_bytes(ours.config),
    'parameter_bytes': _bytes(ours.state.params),
  }


def outcome(
  args: argparse.Namespace, speeds: Mapping[str, list[float]], flops: float
) -> dict[str, object]:
  """Returns the results that every benchmark of the network reports.

  Args:
    args: the flags.
    speeds: images per second of each side in each round; this project's side is 'ours'.
    flops: FLOP per image.
  """
  peak = machine.jax_matmul_rate(args.dtype)
  if has_torch():
    peak = max(peak, machine.torch_matmul_rate(args.dtype))
  speed = statistics.median(speeds['ours'])
  # On a CPU, the rate of the matrix product is that of all cores, which the devices share.
  on_cpu = jax.default_backend() == 'cpu'
  devices = 1 if on_cpu else math.prod(map(int, args.mesh.split(',')))

  def ratio(other):
    return statistics.median(a / b for a, b in zip(speeds['ours'], other, strict=True))

  result = {
    'images_per_s': round(speed, 2),
    'ratio': {name: round(ratio(v), 3) for name, v in speeds.items() if name != 'ours'},
    'roofline_share': round(speed * flops / peak / devices, 3),
  }
  return result | {
    'batch': args.batch,
    'micro_batches': args.micro_batches,
    'dtype': args.dtype,
    'recipe': args.recipe,
    'mesh': args.mesh,
    'spread': {name: machine.spread(values) for name, values in speeds.items()},
    'matmul_gflop_per_s': round(peak / 1e9, 1),
    'copy_gb_per_s': round(machine.copy_rate() / 1e9, 1),
    'gflop_per_image': round(flops / 1e9, 3),
    'peak_bytes': machine.peak_memory(),
    'hardware': machine.hardware(),
  }
