"""Measures how much faster each CPU layer is than its reference layer and PyTorch's, forward and backward.

  python -m benchmarks.layers [--batch=128] [--dtype=float32] [--width=1.0] [--rounds=5]

Measures the layers of the paper's network with their gradients (conv1 without the gradient of its input)
and the first layer of the CIFAR-10 networks. conv1 and conv3, whose towers see the same maps, are measured
with the maps of both towers, the other layers with one tower. The forms are timed alternately, and the
PyTorch layer (pip install torch) is the fastest of several ways to write it.

Prints one line of JSON, in which every ratio is the median of the ratios within the rounds:

  ratio.reference  time of the reference layer over that of the CPU layer
  ratio.fair       time of PyTorch with our memory setting over that of the CPU layer; float32 only
  fast_ms          milliseconds of the CPU layer
"""

import argparse
from collections.abc import Callable
import functools
import json
import statistics
import sys
import time

import jax
import numpy as np

from alexnet_jax.models.layers import cpu, reference
from alexnet_jax.utils import memory
from benchmarks import machine, sides

_PAUSE = 0.1  # seconds before each turn, because the threads of the other side wait actively
_CONV = functools.partial(dict, stride=1)
_NORM = {'size': 5, 'k': 2.0, 'alpha': 1e-4, 'beta': 0.75}
_POOL = {'window': 3, 'stride': 2, 'rounding': 'ceil'}

# By name: the layer, its constants, size and channels of the input, kernel size and features.
LAYERS = {
  'conv1': ('conv', {'stride': 4, 'padding': ((0, 3), (0, 3))}, 224, 3, 11, 96),
  'conv2': ('conv', _CONV(padding=((2, 2), (2, 2))), 27, 48, 5, 128),
  'conv3': ('conv', _CONV(padding=((1, 1), (1, 1))), 13, 256, 3, 384),
  'conv4': ('conv', _CONV(padding=((1, 1), (1, 1))), 13, 192, 3, 192),
  'conv5': ('conv', _CONV(padding=((1, 1), (1, 1))), 13, 192, 3, 128),
  'norm1': ('local_response_norm', _NORM, 55, 48, 0, 0),
  'norm2': ('local_response_norm', _NORM, 27, 128, 0, 0),
  'map_norm2': ('map_response_norm', _NORM, 27, 128, 0, 0),
  'pool1': ('max_pool', _POOL, 55, 48, 0, 0),
  'pool2': ('max_pool', _POOL, 27, 128, 0, 0),
  'cifar conv1': ('conv', _CONV(padding=((2, 2), (2, 2))), 32, 3, 5, 32),
}


def arrays_of(
  batch: int, width: float, side: int, channels: int, size: int, features: int
) -> list[np.ndarray]:
  """Returns random maps, and for a convolution a kernel and a bias, at a width of the network."""
  rng = np.random.default_rng(0)
  channels = channels if channels == 3 else int(channels * width)
  shapes = [(batch, side, side, channels)]
  if size:
    features = int(features * width)
    shapes += [(size, size, channels, features), (features,)]
  return [rng.standard_normal(shape, np.float32) for shape in shapes]


def work(layer: Callable, constants: dict, arrays: list[jax.Array]) -> Callable[[], None]:
  """Returns a function that runs the compiled layer with its gradients and waits for the result."""
  layer = functools.partial(layer, **constants)
  of_image = len(arrays) > 1 and arrays[0].shape[-1] == 3

  def both(g, *arrays):
    if of_image:
      y, pull = jax.vjp(functools.partial(layer, arrays[0]), *arrays[1:])
    else:
      y, pull = jax.vjp(layer, *arrays)
    return y, pull(g)

  shape = jax.eval_shape(layer, *arrays)
  g = jax.numpy.ones(shape.shape, shape.dtype)
  compiled = jax.jit(both).lower(g, *arrays).compile()
  return lambda: jax.block_until_ready(compiled(g, *arrays))


def timed(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
  """Returns the milliseconds of each side in every round after a warm-up; the sides are timed in turn."""
  times = {name: [] for name in calls}
  for i in range(rounds + 1):
    for name, call in calls.items():
      time.sleep(_PAUSE)
      call()
      began = time.perf_counter()
      call()
      if i:
        times[name].append(1e3 * (time.perf_counter() - began))
  return times


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--batch', type=int, default=128)
  parser.add_argument('--dtype', default='float32', choices=('float32', 'bfloat16'))
  parser.add_argument('--width', type=float, default=1.0, help='width of the network')
  parser.add_argument('--rounds', type=int, default=5)
  args = parser.parse_args()
  memory.keep_freed_memory()
  with_peer = args.dtype == 'float32' and sides.has_torch()
  ratios: dict[str, dict[str, float]] = {'reference': {}, 'fair': {}}
  fast_ms = {}
  for name, (layer, constants, *shape) in LAYERS.items():
    arrays = arrays_of(args.batch, 1.0 if 'cifar' in name else args.width, *shape)
    ours = [jax.numpy.asarray(array, args.dtype) for array in arrays]
    calls = {
      side: work(getattr(module, layer), constants, ours)
      for side, module in (('fast', cpu), ('reference', reference))
    }
    if with_peer:
      from benchmarks import torch_layers

      calls['fair'] = torch_layers.fastest(layer, constants, arrays)
    times = timed(calls, args.rounds)
    fast_ms[name] = round(statistics.median(times['fast']), 1)
    for side in times.keys() - {'fast'}:
      rounds = zip(times[side], times['fast'], strict=True)
      ratios[side][name] = round(statistics.median(slow / quick for slow, quick in rounds), 2)
    shown = {side: of_layer[name] for side, of_layer in ratios.items() if of_layer}
    print(f'{name:12} {fast_ms[name]:7.1f} ms, ratios {shown}', file=sys.stderr)
  result = {'ratio': ratios, 'fast_ms': fast_ms, 'batch': args.batch, 'width': args.width}
  print(json.dumps(result | {'dtype': args.dtype, 'hardware': machine.hardware()}))


if __name__ == '__main__':
  main()
