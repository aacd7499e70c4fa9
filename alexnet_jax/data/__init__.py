"""The input pipeline: from image files to uint8 batches on the host.

TensorFlow is imported only to read TensorFlow Datasets (TFDS), to write a store, and to read a set that
does not fit into memory; without TensorFlow, Python threads read such a set. Importing this package
imports neither TensorFlow nor JAX.
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
