"""Measures how much faster each CPU layer is than its reference layer, forward and backward.

  python -m benchmarks.layers [--batch=128] [--dtype=float32] [--rounds=5]

Measures one tower of the layers of the paper's network with their gradients (conv1 without the gradient
of its input) and the first layer of the CIFAR-10 networks. Both forms are timed alternately. Prints one
line of JSON: `ratios` are the medians over the rounds of reference time over CPU-layer time.
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
from benchmarks import machine

_CONV = functools.partial(dict, stride=1)
_NORM = {'size': 5, 'k': 2.0, 'alpha': 1e-4, 'beta': 0.75}
_POOL = {'window': 3, 'stride': 2, 'rounding': 'ceil'}

# By name: the layer, its constants, size and channels of the input, kernel size and features.
LAYERS = {
  'conv1': ('conv', {'stride': 4, 'padding': ((0, 3), (0, 3))}, 224, 3, 11, 48),
  'conv2': ('conv', _CONV(padding=((2, 2), (2, 2))), 27, 48, 5, 128),
  'conv3': ('conv', _CONV(padding=((1, 1), (1, 1))), 13, 256, 3, 192),
  'conv4': ('conv', _CONV(padding=((1, 1), (1, 1))), 13, 192, 3, 192),
  'conv5': ('conv', _CONV(padding=((1, 1), (1, 1))), 13, 192, 3, 128),
  'norm1': ('local_response_norm', _NORM, 55, 48, 0, 0),
  'norm2': ('local_response_norm', _NORM, 27, 128, 0, 0),
  'map_norm2': ('map_response_norm', _NORM, 27, 128, 0, 0),
  'pool1': ('max_pool', _POOL, 55, 48, 0, 0),
  'pool2': ('max_pool', _POOL, 27, 128, 0, 0),
  'cifar conv1': ('conv', _CONV(padding=((2, 2), (2, 2))), 32, 3, 5, 32),
}


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


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--batch', type=int, default=128)
  parser.add_argument('--dtype', default='float32', choices=('float32', 'bfloat16'))
  parser.add_argument('--rounds', type=int, default=5)
  args = parser.parse_args()
  memory.keep_freed_memory()
  rng = np.random.default_rng(0)

  def array(*shape):
    return jax.numpy.asarray(rng.standard_normal(shape, np.float32), args.dtype)

  ratios, fast_ms = {}, {}
  for name, (layer, constants, side, channels, size, features) in LAYERS.items():
    arrays = [array(args.batch, side, side, channels)]
    if size:
      arrays += [array(size, size, channels, features), array(features)]
    sides = [work(getattr(module, layer), constants, arrays) for module in (reference, cpu)]
    times: list[list[float]] = []
    for _ in range(args.rounds + 1):
      times.append([])
      for call in sides:
        began = time.perf_counter()
        call()
        times[-1].append(time.perf_counter() - began)
    ratios[name] = round(statistics.median(slow / quick for slow, quick in times[1:]), 2)
    fast_ms[name] = round(1e3 * statistics.median(quick for _, quick in times[1:]), 1)
    print(f'{name:12} {ratios[name]:6.2f} times, {fast_ms[name]:7.1f} ms', file=sys.stderr)
  result = {'ratios': ratios, 'fast_ms': fast_ms, 'batch': args.batch, 'dtype': args.dtype}
  print(json.dumps(result | {'hardware': machine.hardware()}))


if __name__ == '__main__':
  main()
