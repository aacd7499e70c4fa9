"""Layers that do what their namesakes in `reference` do, faster on a CPU; `dispatch` chooses.

What XLA's CPU backend does well is the matrix product and the elementwise loop over rows of maps; these
functions say the rest in those terms. `python -m benchmarks.layers` measures them beside the reference.
"""

from alexnet_jax.models.layers.cpu_conv import conv, tower_convs
from alexnet_jax.models.layers.cpu_norm import local_response_norm, map_response_norm
from alexnet_jax.models.layers.cpu_pool import max_pool

__all__ = ['conv', 'local_response_norm', 'map_response_norm', 'max_pool', 'tower_convs']
