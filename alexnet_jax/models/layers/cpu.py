"""Faster forms of the layers in `reference` for CPUs; `dispatch` selects them.

XLA's CPU backend is fast at matrix products and at elementwise loops over rows of maps, so these functions
express the layers by those operations. `python -m benchmarks.layers` compares them with the reference layers.
"""

from alexnet_jax.models.layers.cpu_conv import conv, tower_convs
from alexnet_jax.models.layers.cpu_norm import local_response_norm, map_response_norm
from alexnet_jax.models.layers.cpu_pool import max_pool

__all__ = ['conv', 'local_response_norm', 'map_response_norm', 'max_pool', 'tower_convs']
