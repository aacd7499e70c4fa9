"""Import and export: PyTorch, Caffe, cuda-convnet, our own archive, and programs for serving.

This package imports torch, tensorflow and protobuf only when a file needs them.
"""

from alexnet_jax.interop.caffe import from_caffe
from alexnet_jax.interop.cuda_convnet import from_cuda_convnet, to_cuda_convnet
from alexnet_jax.interop.pytorch import from_pytorch, from_torchvision, to_pytorch, to_torchvision

__all__ = [
  'from_caffe',
  'from_cuda_convnet',
  'from_pytorch',
  'from_torchvision',
  'to_cuda_convnet',
  'to_pytorch',
  'to_torchvision',
]
