"""Locally connected layers and average pooling, which AlexNet does not have but the CIFAR-10 networks do.

As in `models.layers.reference`, functions work on the maps of one tower, `[B, H, W, C]`, and return the dtype
that they are given.
"""

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.models.layers import reference

Array = jax.Array


def locally_connected(
  x: Array, kernel: Array, bias: Array, size: int, stride: int, padding: reference.Padding
) -> Array:
  """Applies a locally connected ("unshared") layer: a convolution with a kernel of its own for every window.

  `lax.conv_general_dilated_local` computes the same, but took 10 times as long on a CPU.

  Args:
    x: `[B, H, W, Cin]`, any float dtype.
    kernel: `[H', W', size * size * Cin, Cout]`, its third axis in the order (kh, kw, Cin).
    bias: `[H', W', Cout]`.
    size: side of the window, in pixels.
    stride: pixels between windows.
    padding: `((top, bottom), (left, right))` zeros.

  Returns:
    `[B, H', W', Cout]`.
  """
  height, width = kernel.shape[:2]
  # There is a matrix product for every window. With the batch behind rows and columns, its matrices are
  # contiguous in memory.
  padded = jnp.pad(x.transpose(1, 2, 0, 3), (*padding, (0, 0), (0, 0)))
  windows = [
    padded[i : i + stride * height : stride, j : j + stride * width : stride][:height, :width]
    for i in range(size)
    for j in range(size)
  ]
  y = jnp.einsum('hwbk,hwkf->hwbf', jnp.concatenate(windows, -1), kernel.astype(x.dtype))
  return reference.add_bias(y.transpose(2, 0, 1, 3), bias)


def avg_pool(x: Array, *, window: int, stride: int, rounding: str) -> Array:
  """Averages over windows, with the arguments and the result of `reference.max_pool`.

  A window that extends beyond the maps is averaged over the pixels that lie inside (docs/FACTS.md, section
  1.2).
  """
  for axis in (1, 2):
    size = x.shape[axis]
    windows = reference.pooled_size(size, window, stride, rounding)
    if windows < 1:  # `models.summary` reports maps without pixels as an error
      x = jax.lax.slice_in_dim(x, 0, 0, axis=axis)
      continue
    covered = (windows - 1) * stride + window
    pads = [(0, 0)] * x.ndim
    pads[axis] = (0, max(0, covered - size))
    padded = jnp.pad(x, pads)

    def cut(i, axis=axis, padded=padded, covered=covered):
      return jax.lax.slice_in_dim(padded, i, covered - window + i + 1, stride, axis)

    inside = np.minimum(window, size - stride * np.arange(windows))  # pixels of each window
    share = jnp.asarray(1 / inside, x.dtype).reshape(-1, *(1,) * (x.ndim - axis - 1))
    x = sum(cut(i) for i in range(window)) * share
  return x
