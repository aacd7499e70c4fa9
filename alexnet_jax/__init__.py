"""The executable edition of "ImageNet Classification with Deep Convolutional Neural Networks" (2012)."""

from alexnet_jax.config import recipes
from alexnet_jax.models import create
from alexnet_jax.version import __version__

__all__ = ['__version__', 'create', 'recipes']
