"""Describes the machine and measures its peak rates, with which other figures are compared."""

import importlib.metadata
import importlib.util
import os
import platform
import resource
import statistics
import time

import jax
import jax.numpy as jnp

from alexnet_jax.utils import processor

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'torch', 'numpy')
_SIDE = {'cpu': 2048, 'gpu': 8192, 'tpu': 8192}  # side of the square matrices that are multiplied
_BYTES = {'cpu': 2**28, 'gpu': 2**31, 'tpu': 2**31}  # size of the array that is copied


def hardware() -> dict[str, object]:
  """Returns the device, the number of cores and the versions of the relevant packages."""
  device = jax.devices()[0]
  versions = {
    name: importlib.metadata.version(name) for name in PACKAGES if importlib.util.find_spec(name)
  }
  return {
    'device': processor.name() if device.platform == 'cpu' else device.device_kind,
    'devices': jax.device_count(),
    'cores': os.cpu_count(),
    'python': platform.python_version(),
    **versions,
  }


def _best(function, *args, repeats: int = 5) -> float:
  """Returns the shortest of `repeats` calls, in seconds, after a call that compiles."""
  jax.block_until_ready(function(*args))
  times = []
  for _ in range(repeats):
    began = time.perf_counter()
    jax.block_until_ready(function(*args))
    times.append(time.perf_counter() - began)
  return min(times)


def jax_matmul_rate(dtype: str) -> float:
  """Returns the FLOP per second of a large square matrix product in JAX.

  The matrices are random, because a GPU multiplies ones with less power, and therefore faster.
  """
  side = _SIDE[jax.default_backend()]
  a, b = (
    jax.random.normal(key, (side, side), dtype) for key in jax.random.split(jax.random.key(0))
  )
  return 2 * side**3 / _best(jax.jit(jnp.matmul), a, b)


def torch_matmul_rate(dtype: str) -> float:
  """Returns the FLOP per second of a large square matrix product in PyTorch."""
  import torch

  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  side = _SIDE[jax.default_backend()]
  a, b = (torch.randn((side, side), dtype=getattr(torch, dtype), device=device) for _ in range(2))
  wait = torch.cuda.synchronize if device == 'cuda' else lambda: None

  def product():
    a @ b
    wait()

  return 2 * side**3 / _best(product)


def copy_rate() -> float:
  """Returns the bytes per second, read and written, of a copy larger than any cache."""
  count = _BYTES[jax.default_backend()] // 4
  return 8 * count / _best(jax.jit(lambda x: x + 1), jnp.ones(count, jnp.float32))


def peak_memory() -> int:
  """Returns the peak memory so far in bytes: of the accelerator, or of the process on a CPU."""
  stats = jax.devices()[0].memory_stats()
  if stats and jax.default_backend() != 'cpu':
    return stats['peak_bytes_in_use']
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def spread(values: list[float]) -> dict[str, float]:
  """Returns the median, minimum and maximum of `values`."""
  return {
    'median': round(statistics.median(values), 2),
    'min': round(min(values), 2),
    'max': round(max(values), 2),
  }
