"""Images from their source to uint8 batches on the host.

The only package that imports tensorflow, and only to stream sets that do not fit into memory and
to read TFDS; importing it imports neither tensorflow nor jax.
"""

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
