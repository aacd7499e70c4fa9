"""Weights in and out: torchvision, Caffe, cuda-convnet, our own archive, and programs for serving.

Importing it needs neither torch, tensorflow nor protobuf; each is imported where a file asks for it.
"""

from alexnet_jax.interop.caffe import from_caffe
from alexnet_jax.interop.cuda_convnet import from_cuda_convnet, to_cuda_convnet
from alexnet_jax.interop.torchvision import from_torchvision, to_torchvision

__all__ = [
  'from_caffe',
  'from_cuda_convnet',
  'from_torchvision',
  'to_cuda_convnet',
  'to_torchvision',
]
