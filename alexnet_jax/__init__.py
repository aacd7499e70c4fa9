"""The executable edition of "ImageNet Classification with Deep Convolutional Neural Networks" (2012)."""

import importlib
from typing import TYPE_CHECKING, Any

from alexnet_jax.version import __version__

if TYPE_CHECKING:
  from alexnet_jax.config import recipes
  from alexnet_jax.inference.classifier import load
  from alexnet_jax.models.alexnet import create

__all__ = ['__version__', 'create', 'load', 'recipes']
_HOMES = {'create': 'models.alexnet', 'load': 'inference.classifier', 'recipes': 'config'}


def __getattr__(name: str) -> Any:
  """Imports a public name when it is used first, so that the command line can show its help at once."""
  if name not in _HOMES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_HOMES[name]}'), name)
