"""What the machine is, and what it can do at most: the measure of every other figure."""

import importlib.metadata
import importlib.util
import os
import platform
import resource
import statistics
import time

import jax
import jax.numpy as jnp

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'torch', 'numpy')
_SIDE = {'cpu': 2048, 'gpu': 8192, 'tpu': 8192}  # of the matrices multiplied
_BYTES = {'cpu': 2**28, 'gpu': 2**31, 'tpu': 2**31}  # of the array copied


def hardware() -> dict[str, object]:
  """Names the device, its number of cores and the versions of the packages that matter."""
  device = jax.devices()[0]
  versions = {
    name: importlib.metadata.version(name) for name in PACKAGES if importlib.util.find_spec(name)
  }
  return {
    'device': processor() if device.platform == 'cpu' else device.device_kind,
    'devices': jax.device_count(),
    'cores': os.cpu_count(),
    'python': platform.python_version(),
    **versions,
  }


def processor() -> str:
  """The processor's name, as the kernel has it."""
  try:
    with open('/proc/cpuinfo') as file:
      names = [line.split(':')[1].strip() for line in file if line.startswith('model name')]
    return names[0]
  except (OSError, IndexError):
    return platform.processor()


def _best(function, *args, repeats: int = 5) -> float:
  """The shortest of some runs, in seconds, after one that compiles."""
  jax.block_until_ready(function(*args))
  times = []
  for _ in range(repeats):
    began = time.perf_counter()
    jax.block_until_ready(function(*args))
    times.append(time.perf_counter() - began)
  return min(times)


def jax_matmul_rate(dtype: str) -> float:
  """FLOP a second of a large square matrix product in JAX."""
  side = _SIDE[jax.default_backend()]
  a = jnp.ones((side, side), dtype)
  return 2 * side**3 / _best(jax.jit(jnp.matmul), a, a)


def torch_matmul_rate(dtype: str) -> float:
  """The same in PyTorch."""
  import torch

  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  side = _SIDE[jax.default_backend()]
  a = torch.ones((side, side), dtype=getattr(torch, dtype), device=device)
  wait = torch.cuda.synchronize if device == 'cuda' else lambda: None

  def product():
    a @ a
    wait()

  return 2 * side**3 / _best(product)


def copy_rate() -> float:
  """Bytes a second, read and written, of a copy larger than any cache."""
  count = _BYTES[jax.default_backend()] // 4
  return 8 * count / _best(jax.jit(lambda x: x + 1), jnp.ones(count, jnp.float32))


def peak_memory() -> int:
  """The most bytes held so far: on the accelerator, else by the process."""
  stats = jax.devices()[0].memory_stats()
  if stats and jax.default_backend() != 'cpu':
    return stats['peak_bytes_in_use']
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def spread(values: list[float]) -> dict[str, float]:
  """Median, least and most."""
  return {
    'median': round(statistics.median(values), 2),
    'min': round(min(values), 2),
    'max': round(max(values), 2),
  }
