"""Single layers in PyTorch, each in the fastest of several forms, as a peer for our layers."""

from collections.abc import Callable, Iterator
import os
import time

import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F

from benchmarks import torch_peer


def _convolution(x: Tensor, kernel: Tensor, bias: Tensor, stride: int, padding) -> Tensor:
  (top, bottom), (left, right) = padding
  if (top, left) == (bottom, right):
    return F.conv2d(x, kernel, bias, stride, (top, left))
  return F.conv2d(F.pad(x, (left, right, top, bottom)), kernel, bias, stride)


def _map_norm(x: Tensor, size: int, k: float, alpha: float, beta: float) -> Tensor:
  total = F.avg_pool2d(x * x, size, 1, size // 2) * size**2
  return x * torch_peer.power(k + alpha * total, beta)


def _max_pool(x: Tensor, window: int, stride: int, rounding: str) -> Tensor:
  return F.max_pool2d(x, window, stride, ceil_mode=rounding == 'ceil')


_FUNCTIONS = {
  'conv': (_convolution,),
  'local_response_norm': tuple(torch_peer.NORMS.values()),
  'map_response_norm': (_map_norm,),
  'max_pool': (_max_pool,),
}


def _forms(layer: str, constants: dict, arrays: list[np.ndarray]) -> Iterator[Callable[[], None]]:
  """Yields functions that run the layer with its gradients, one for each memory layout and function."""
  for layout in (torch.channels_last, torch.contiguous_format):
    tensors = [torch.from_numpy(arrays[0]).permute(0, 3, 1, 2)]
    if len(arrays) > 1:
      tensors.append(torch.from_numpy(arrays[1]).permute(3, 2, 0, 1))
    tensors = [tensor.contiguous(memory_format=layout) for tensor in tensors]
    tensors += [torch.from_numpy(array) for array in arrays[2:]]
    of_image = len(arrays) > 1 and arrays[0].shape[-1] == 3
    for tensor in tensors[1:] if of_image else tensors:
      tensor.requires_grad_()
    for function in _FUNCTIONS[layer]:
      y = function(*tensors, **constants)
      yield _both_ways(function, tensors, constants, torch.ones_like(y))


def _both_ways(function, tensors: list[Tensor], constants: dict, g: Tensor) -> Callable[[], None]:
  def call() -> None:
    for tensor in tensors:
      tensor.grad = None
    function(*tensors, **constants).backward(g)

  return call


def fastest(layer: str, constants: dict, arrays: list[np.ndarray]) -> Callable[[], None]:
  """Returns a function that runs a layer with its gradients in its fastest form on a CPU.

  Args:
    layer: name of a function of `alexnet_jax.models.layers.reference`.
    constants: its keyword arguments.
    arrays: float32 maps `[B, H, W, C]`; for a convolution also a kernel `[h, w, C, F]` and a bias `[F]`.
  """
  torch_peer.ready(os.cpu_count())
  seconds = {}
  for form in _forms(layer, constants, arrays):
    form()
    began = time.perf_counter()
    form()
    seconds[form] = time.perf_counter() - began
  return min(seconds, key=lambda form: seconds[form])
