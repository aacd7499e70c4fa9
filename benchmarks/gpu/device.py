"""Describes the device, measures its peak rates, and times work on it.

A GPU works asynchronously. A round therefore starts many calls, waits for the last one only, and divides
the time by their number. Inputs are on the device before the clock starts. The sides are timed
alternately, after a warm-up that compiles and raises the GPU's clock rates. Arrays are random, because a
product of zeros or ones draws less power and can run faster than a product of real data.
"""

from collections.abc import Callable, Mapping
import importlib.util
import statistics
import subprocess
import time
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.extend.backend
import jax.numpy as jnp

from benchmarks import machine
from benchmarks.gpu import plan

NO_TORCH = 'PyTorch is not installed'
NO_CUDA = 'PyTorch has no CUDA device'


class Work(NamedTuple):
  """Work to time: `call(i)` starts the i-th call and `wait(result)` waits for its result."""

  call: Callable[[int], Any]
  wait: Callable[[Any], Any]


def race(
  works: Mapping[str, Work], rounds: int, seconds: float, warm: float
) -> dict[str, list[float]]:
  """Times the sides alternately; returns the seconds per call of each side in each round.

  Args:
    works: the sides by name.
    rounds: number of timed rounds.
    seconds: approximate length of a round of one side.
    warm: seconds of warm-up calls of each side before the first round.
  """
  counts = {name: _warmed(work, warm, seconds) for name, work in works.items()}
  found: dict[str, list[float]] = {name: [] for name in works}
  for _ in range(rounds):
    for name, work in works.items():
      found[name].append(timed(work, counts[name]))
  return found


def timed(work: Work, count: int) -> float:
  """Returns the seconds per call of `count` calls that are started one after the other."""
  began = time.perf_counter()
  given = None
  for i in range(count):
    given = work.call(i)
  work.wait(given)
  return (time.perf_counter() - began) / count


def _warmed(work: Work, warm: float, seconds: float) -> int:
  """Calls `work` for `warm` seconds; returns the number of calls that take about `seconds`."""
  work.wait(work.call(0))  # the first call compiles
  began, count = time.perf_counter(), 1
  took = timed(work, count)
  while time.perf_counter() - began < warm:
    took, count = timed(work, count), min(2 * count, 256)
  return max(1, min(2000, round(seconds / max(took, 1e-7))))


def of_jax(function: Callable, *args: Any) -> Work:
  """Returns work that calls a compiled function with the same arrays every time."""
  return Work(lambda _: function(*args), jax.block_until_ready)


def spread(values: list[float], scale: float = 1.0) -> dict[str, float]:
  """Returns median, minimum, maximum and number of rounds, times `scale`, to four significant digits."""

  def shown(value):
    return float(f'{value * scale:.4g}')

  return {
    'median': shown(statistics.median(values)),
    'min': shown(min(values)),
    'max': shown(max(values)),
    'rounds': len(values),
  }


def ratio(slow: list[float], quick: list[float]) -> float:
  """Returns the speed-up of `quick` over the other side: the median of the ratios within the rounds."""
  return round(statistics.median(a / b for a, b in zip(slow, quick, strict=True)), 3)


def settings(small: bool) -> dict[str, Any]:
  """Returns the number of rounds and the seconds of a comparison."""
  if small:
    return {'rounds': 2, 'seconds': 0.01, 'warm': 0.0}
  return {'rounds': 7, 'seconds': 0.25, 'warm': 1.0}


def torch_reason() -> str | None:
  """Returns the reason why PyTorch cannot be compared with; None if it can."""
  if importlib.util.find_spec('torch') is None:
    return NO_TORCH
  import torch

  if jax.default_backend() != 'cpu' and not torch.cuda.is_available():
    return NO_CUDA
  return None


def set_up_torch(tf32: bool) -> str:
  """Configures PyTorch with or without TF32 in float32 products; returns its device."""
  import torch

  torch.backends.cudnn.benchmark = True
  torch.backends.cuda.matmul.allow_tf32 = tf32
  torch.backends.cudnn.allow_tf32 = tf32
  return 'cuda' if torch.cuda.is_available() else 'cpu'


def clocks() -> dict[str, str] | None:
  """Returns clock rates, power and temperature of the GPU now; None without nvidia-smi."""
  fields = ('clocks.sm', 'clocks.mem', 'power.draw', 'temperature.gpu', 'driver_version')
  command = ['nvidia-smi', f'--query-gpu={",".join(fields)}', '--format=csv,noheader']
  try:
    text = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
  except (OSError, subprocess.SubprocessError):
    return None
  return dict(
    zip(fields, (value.strip() for value in text.splitlines()[0].split(',')), strict=True)
  )


def describe() -> dict[str, Any]:
  """Returns the description of the machine that is part of every result, with its clock rates now."""
  return {'hardware': machine.hardware() | _cuda_versions(), 'clocks': clocks()}


def _cuda_versions() -> dict[str, str]:
  """Returns the versions of CUDA that JAX and PyTorch use; empty without a GPU."""
  if jax.default_backend() == 'cpu':
    return {}
  versions = {'jax backend': jax.extend.backend.get_backend().platform_version.replace('\n', ', ')}
  if torch_reason() is None:
    import torch

    versions |= {
      'torch CUDA': f'{torch.version.cuda}',
      'cuDNN': f'{torch.backends.cudnn.version()}',
    }
  return versions


# --- Stage a


def ceilings(context: plan.Context) -> dict[str, Any]:
  """Measures the rates of a large matrix product and of a copy, in JAX and in PyTorch."""
  side = 256 if context.small else 8192
  count = 2**20 if context.small else 2**30  # size of the copied array in bytes
  race_settings = settings(context.small)
  works = _jax_ceilings(side, count)
  reason = torch_reason()
  times = race(works, **race_settings)
  if reason is None:
    try:
      times |= _race_torch(side, count, race_settings)
    except Exception as error:
      reason = plan.short(error)
  result: dict[str, Any] = {'matmul_side': side, 'copied_bytes': count, 'torch_reason': reason}
  for name, seconds in times.items():
    amount = 2 * count if name.endswith('copy') else 2 * side**3
    result[name] = spread([amount / s for s in seconds], 1e-9 if 'copy' in name else 1e-12)
  result['matmul_tflop_per_s'] = {
    kind: max(result[name]['median'] for name in result if str(name).endswith(f'{kind}_matmul'))
    for kind in ('bfloat16', 'tf32', 'float32')
  }
  result['copy_gb_per_s'] = max(
    result[name]['median'] for name in ('jax_copy', 'torch_copy') if name in result
  )
  return result | describe()


def _jax_ceilings(side: int, count: int) -> dict[str, Work]:
  keys = jax.random.split(jax.random.key(0), 3)
  a, b = (jax.random.normal(key, (side, side)) for key in keys[:2])

  def product(precision):
    return jax.jit(lambda a, b: jnp.matmul(a, b, precision=precision))

  halves = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
  values = jax.random.normal(keys[2], (count // 4,))
  return {
    'jax_bfloat16_matmul': of_jax(product(None), *halves),
    'jax_tf32_matmul': of_jax(product(lax.Precision.DEFAULT), a, b),
    'jax_float32_matmul': of_jax(product(lax.Precision.HIGHEST), a, b),
    'jax_copy': of_jax(jax.jit(lambda x: x + 1), values),
  }


def _race_torch(side: int, count: int, race_settings: Mapping[str, Any]) -> dict[str, list[float]]:
  """Measures PyTorch separately, because its TF32 setting applies to the whole process."""
  import torch

  times: dict[str, list[float]] = {}
  for kind, tf32 in (('bfloat16', True), ('tf32', True), ('float32', False)):
    target = set_up_torch(tf32)
    a, b = (torch.randn(side, side, device=target) for _ in range(2))
    if kind == 'bfloat16':
      a, b = a.bfloat16(), b.bfloat16()
    work = Work(lambda _, a=a, b=b: a @ b, torch_wait)
    times |= race({f'torch_{kind}_matmul': work}, **race_settings)
  values = torch.randn(count // 4, device=target)
  out = torch.empty_like(values)
  return times | race(
    {'torch_copy': Work(lambda _: out.copy_(values), torch_wait)}, **race_settings
  )


def torch_wait(_: Any) -> None:
  """Waits for all work that PyTorch has started on a GPU."""
  import torch

  if torch.cuda.is_available():
    torch.cuda.synchronize()
