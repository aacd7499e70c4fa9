"""The networks: pure functions of parameters and images, without data, optimizer or TensorFlow."""

from alexnet_jax.models.alexnet import AlexNet, create
from alexnet_jax.models.keys import validate
from alexnet_jax.models.summary import abstract_variables, layer_table

__all__ = ['AlexNet', 'abstract_variables', 'create', 'layer_table', 'validate']
