"""The layers as networks call them: `reference` defines each, `cpu` and `gpu` compute it faster.

The table `FAST` decides which functions are used, by the backend on which JAX runs when a network is traced.
It lists a layer if `python -m benchmarks.layers`, or on a GPU `python -m benchmarks.gpu`, has shown a gain.
Max pooling on a GPU is the exception, for the reason that its comment gives.
"""

from collections.abc import Callable, Iterator
import contextlib
import contextvars
import functools
import importlib
from typing import ParamSpec, TypeVar

import jax

from alexnet_jax.models.layers import reference

FAST = {
  'cpu': ('conv', 'local_response_norm', 'map_response_norm', 'max_pool', 'tower_convs'),
  # Max pooling is listed for equal bits, not for a gain, which is not measured: the gradient that JAX derives
  # is a select-and-scatter, which XLA cannot compute deterministically on a GPU at a usable speed.
  'gpu': ('max_pool',),
  'tpu': (),  # not measured
}

_reference_only = contextvars.ContextVar('reference_only', default=False)

P = ParamSpec('P')
R = TypeVar('R')


def _by_backend(layer: Callable[P, R]) -> Callable[P, R]:
  name = layer.__name__

  @functools.wraps(layer)
  def choose(*args: P.args, **kwargs: P.kwargs) -> R:
    backend = jax.default_backend()
    if _reference_only.get() or name not in FAST.get(backend, ()):
      return layer(*args, **kwargs)
    # The module is imported when it is first needed, because `gpu` imports Pallas.
    module = importlib.import_module(f'alexnet_jax.models.layers.{backend}')
    return getattr(module, name)(*args, **kwargs)

  return choose


@contextlib.contextmanager
def reference_only() -> Iterator[None]:
  """Makes networks that are traced within it use the reference layers on every backend."""
  token = _reference_only.set(True)
  try:
    yield
  finally:
    _reference_only.reset(token)


conv = _by_backend(reference.conv)
local_response_norm = _by_backend(reference.local_response_norm)
map_response_norm = _by_backend(reference.map_response_norm)
max_pool = _by_backend(reference.max_pool)
tower_convs = _by_backend(reference.tower_convs)
