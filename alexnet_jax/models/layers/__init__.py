"""The layers that networks call: `reference` defines each, `cpu` computes it faster, `dispatch` chooses."""

from alexnet_jax.models.layers.dispatch import (
  FAST,
  conv,
  local_response_norm,
  map_response_norm,
  max_pool,
  reference_only,
  tower_convs,
)
from alexnet_jax.models.layers.local import avg_pool, locally_connected
from alexnet_jax.models.layers.reference import (
  Array,
  Padding,
  add_bias,
  dense,
  dropout,
  pooled_size,
)

__all__ = [
  'FAST',
  'Array',
  'Padding',
  'add_bias',
  'avg_pool',
  'conv',
  'dense',
  'dropout',
  'local_response_norm',
  'locally_connected',
  'map_response_norm',
  'max_pool',
  'pooled_size',
  'reference_only',
  'tower_convs',
]
