"""The networks: pure functions of parameters and images; no data, no optimizer, no TensorFlow."""

from alexnet_jax.models.alexnet import AlexNet, create, layer_table
from alexnet_jax.models.keys import validate

__all__ = ['AlexNet', 'create', 'layer_table', 'validate']
