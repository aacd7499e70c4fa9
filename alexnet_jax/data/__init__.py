"""The input pipeline: from image files to uint8 batches on the host.

TensorFlow is imported only to read TensorFlow Datasets (TFDS), to write a store, and to read a set that
does not fit into memory; without TensorFlow, Python threads read such a set. Importing this package
imports neither TensorFlow nor JAX; the packages that decode images are imported when they are needed.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from alexnet_jax.data.dataset import Dataset, open_dataset
  from alexnet_jax.data.decode import Canvas, decode_canvas
  from alexnet_jax.data.order import batch_indices, epoch_permutation
  from alexnet_jax.data.statistics import Statistics

__all__ = [
  'Canvas',
  'Dataset',
  'Statistics',
  'batch_indices',
  'decode_canvas',
  'epoch_permutation',
  'open_dataset',
]
_HOMES = {
  'Canvas': 'decode',
  'Dataset': 'dataset',
  'Statistics': 'statistics',
  'batch_indices': 'order',
  'decode_canvas': 'decode',
  'epoch_permutation': 'order',
  'open_dataset': 'dataset',
}


def __getattr__(name: str) -> Any:
  """Imports a public name when it is used first, so that a program that trains needs no image decoders."""
  if name not in _HOMES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_HOMES[name]}'), name)
