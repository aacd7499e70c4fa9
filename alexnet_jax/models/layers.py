"""The layers as networks call them: `plain` says what each does, `fast` does it faster on some backends.

This table chooses, by the backend that JAX runs on when a network is traced. A layer is listed where
`python -m benchmarks.layers` has shown a gain.
"""

from collections.abc import Callable
import functools
from typing import TypeVar

import jax

from alexnet_jax.models import fast, plain
from alexnet_jax.models.plain import (
  Array,
  Padding,
  batch_moments,
  batch_norm,
  dense,
  dropout,
  pooled_size,
)

FAST = {
  'cpu': ('conv', 'local_response_norm', 'map_response_norm', 'max_pool'),
  'gpu': (),  # not measured
  'tpu': (),  # not measured
}

Layer = TypeVar('Layer', bound=Callable)


def _by_backend(layer: Layer) -> Layer:
  name = layer.__name__

  @functools.wraps(layer)
  def choose(*args, **kwargs):
    chosen = fast if name in FAST.get(jax.default_backend(), ()) else plain
    return getattr(chosen, name)(*args, **kwargs)

  return choose


conv = _by_backend(plain.conv)
local_response_norm = _by_backend(plain.local_response_norm)
map_response_norm = _by_backend(plain.map_response_norm)
max_pool = _by_backend(plain.max_pool)

__all__ = [
  'FAST',
  'Array',
  'Padding',
  'batch_moments',
  'batch_norm',
  'conv',
  'dense',
  'dropout',
  'local_response_norm',
  'map_response_norm',
  'max_pool',
  'pooled_size',
]
