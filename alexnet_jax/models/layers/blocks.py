"""Blocks of pixels: a convolution of an image with a stride becomes one at stride 1 with more channels.

Each square of `stride` x `stride` pixels turns into one pixel whose channels are all of theirs. conv1, with
11 x 11 taps at stride 4 and 3 channels, becomes a convolution with 3 x 3 taps and 48 channels.
"""

from jax import lax
import jax.numpy as jnp

from alexnet_jax.models.layers.reference import Array, Padding


def of_image(x: Array, size: int, stride: int, padding: Padding) -> Array:
  """Turns each square of pixels into one pixel.

  Args:
    x: `[B, H, W, C]`.
    size: side of the kernel, in pixels.
    stride: pixels between windows.
    padding: `((top, bottom), (left, right))` zeros.

  Returns:
    `[B, H', W', stride * stride * C]`, padded to the pixels that the windows cover.
  """
  pads = [(0, 0, 0)]
  for length, (before, after) in zip(x.shape[1:3], padding, strict=True):
    windows = (int(before) + length + int(after) - size) // stride + 1
    seen = (windows - 1 + -(-size // stride)) * stride
    pads.append((int(before), seen - int(before) - length, 0))
  x = lax.pad(x, jnp.zeros((), x.dtype), [*pads, (0, 0, 0)])
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // stride, stride, width // stride, stride * channels)
  x = x.swapaxes(2, 3)
  return x.reshape(batch, height // stride, width // stride, stride * stride * channels)


def of_kernel(kernel: Array, stride: int) -> Array:
  """Rearranges a kernel in the same way, and fills it up with zeros.

  `[size, size, C, F]` -> `[taps, taps, stride * stride * C, F]`: 11 x 11 taps at stride 4 become 3 x 3.
  """
  size, _, channels, features = kernel.shape
  taps = -(-size // stride)
  spare = (0, taps * stride - size)
  kernel = jnp.pad(kernel, (spare, spare, (0, 0), (0, 0)))
  kernel = kernel.reshape(taps, stride, taps, stride, channels, features)
  return kernel.transpose(0, 2, 1, 3, 4, 5).reshape(taps, taps, -1, features)
