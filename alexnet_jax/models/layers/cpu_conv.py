"""Convolutions on a CPU.

A convolution is computed by Winograd's method where that saves multiplications (`winograd.py`). At stride 1,
the convolution of an image with few channels is computed in squares of outputs. XLA computes the others, and
this module computes the gradient of their kernels in a faster way than XLA does.
"""

import functools
import math

import jax
from jax import lax
import jax.numpy as jnp

from alexnet_jax.models.layers import blocks, winograd
from alexnet_jax.models.layers.reference import Array, Padding, add_bias

_IMAGE_CHANNELS = 4  # an input with at most this many channels is treated as an image, not as maps
_NO_PADDING = ((0, 0), (0, 0))
PIECE = 32  # number of images for which XLA computes the gradient of a kernel at once


def conv(x: Array, kernel: Array, bias: Array, stride: int, padding: Padding) -> Array:
  """Computes `reference.conv`, with the same arguments and result."""
  return add_bias(_convolved(x, kernel, stride, padding), bias)


def tower_convs(
  xs: list[Array], kernel: Array, bias: Array, stride: int, padding: Padding
) -> list[Array]:
  """Computes `reference.tower_convs`.

  Towers that read the same maps are computed as one convolution with the kernels of all towers. The maps are
  then transformed only once, and the matrix products are larger.
  """
  if any(x is not xs[0] for x in xs):
    return [conv(x, kernel[t], bias[t], stride, padding) for t, x in enumerate(xs)]
  towers, *sides, features = kernel.shape
  wide = jnp.moveaxis(kernel, 0, -2).reshape(*sides, towers * features)
  ys = jnp.split(_convolved(xs[0], wide, stride, padding), towers, -1)
  return [add_bias(y, bias[t]) for t, y in enumerate(ys)]


def _convolved(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
  """Computes a convolution without its bias, by the fastest of the methods below."""
  static = tuple((int(low), int(high)) for low, high in padding)
  x, kernel = _alike(x, kernel.astype(x.dtype))
  seen = [low + length + high for length, (low, high) in zip(x.shape[1:3], static, strict=True)]
  if min(seen) < len(kernel):  # `models.summary` reports an input that is too small
    return _xla_conv(x, kernel, stride, static)
  channels = x.shape[-1]
  if stride > 1 and channels <= _IMAGE_CHANNELS:
    # Blocks of pixels of an image become single pixels with many channels, like those of maps.
    pixels = blocks.of_image(x, len(kernel), stride, static)
    wide = blocks.of_kernel(kernel, stride)
    plan = winograd.plan(pixels.shape, len(wide), _NO_PADDING)
    if plan:
      return winograd.conv(pixels, wide, plan)
  plan = winograd.plan(x.shape, len(kernel), static) if stride == 1 else None
  if plan and channels > _IMAGE_CHANNELS:
    return winograd.conv(x, kernel, plan)
  return _conv(x, kernel, stride, static)


def _alike(*arrays: Array) -> list[Array]:
  """Marks arrays as varying over all mesh axes that any of them varies over.

  Inside `shard_map`, `jax.custom_vjp` and `lax.scan` require this. Outside `shard_map` it changes nothing.
  """
  axes = [jax.typeof(array).manual_axis_type.varying for array in arrays]
  missing = [tuple(frozenset().union(*axes) - own) for own in axes]
  return [lax.pcast(a, m, to='varying') if m else a for a, m in zip(arrays, missing, strict=True)]


def _xla_conv(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
  return lax.conv_general_dilated(
    x, kernel, (stride, stride), padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def _is_image(x: Array, stride: int) -> bool:
  return stride == 1 and x.shape[-1] <= _IMAGE_CHANNELS


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
  if _is_image(x, stride):
    return _conv_by_squares(x, kernel, padding)
  return _xla_conv(x, kernel, stride, padding)


def _conv_forward(x, kernel, stride, padding):
  return _conv(x, kernel, stride, padding), (x, kernel)


def _conv_backward(stride, padding, saved, g):
  x, kernel = saved
  (dx,) = jax.linear_transpose(lambda x: _xla_conv(x, kernel, stride, padding), x)(g)
  if _is_image(x, stride):
    dkernel = _kernel_gradient_by_squares(x, g, kernel, padding)
  else:
    dkernel = _kernel_gradient_in_pieces(x, g, kernel, stride, padding)
  return dx, dkernel.astype(kernel.dtype)


_conv.defvjp(_conv_forward, _conv_backward)


def _kernel_gradient_in_pieces(
  x: Array, g: Array, kernel: Array, stride: int, padding: Padding
) -> Array:
  """Adds up XLA's gradients of the kernel for `PIECE` images at a time.

  For a large batch at once, XLA is several times slower.
  """

  def piece(x, g):
    def convolve(kernel):
      return _xla_conv(x, kernel, stride, padding)

    return jax.linear_transpose(convolve, kernel)(g)[0].astype(jnp.float32)

  starts = range(0, len(x), PIECE)
  return sum(piece(x[i : i + PIECE], g[i : i + PIECE]) for i in starts)


# An image has few channels, so its windows have few entries, and products of short vectors are slow. At
# stride 1, the outputs are therefore computed in squares of 2 x 2 pixels. The pixels that a square reads form
# one row of a matrix, and four shifted copies of the kernel form the other matrix. For a 5 x 5 kernel, the
# product has 1.4 times as many multiplications. For conv1 of the CIFAR-10 networks on two AVX2 cores, it is
# as fast as XLA in the forward pass, and twice as fast in the gradient of the kernel.


def _rows_of_squares(x: Array, size: int, padding: Padding) -> tuple[Array, tuple[int, int]]:
  """Returns the matrix with a row for each square of outputs, and the rows and columns of squares."""
  even = []
  for length, (before, after) in zip(x.shape[1:3], padding, strict=True):
    outputs = before + length + after - size + 1
    even.append((before, after + outputs % 2))
  pixels, taps = blocks.of_image(x, size + 1, 2, tuple(even)), -(-(size + 1) // 2)
  height, width = (length - taps + 1 for length in pixels.shape[1:3])
  parts = [pixels[:, i : i + height, j : j + width] for i in range(taps) for j in range(taps)]
  matrix = jnp.concatenate(parts, -1)
  return matrix.reshape(-1, matrix.shape[-1]), (height, width)


def _kernel_of_squares(kernel: Array) -> Array:
  """Returns the other matrix of the product; its columns are the 2 x 2 outputs of all maps."""
  size, _, channels, features = kernel.shape
  shifted = [
    jnp.pad(kernel, ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0))) for i in (0, 1) for j in (0, 1)
  ]
  wide = jnp.stack(shifted, 3).reshape(size + 1, size + 1, channels, 4 * features)
  return blocks.of_kernel(wide, 2).reshape(-1, 4 * features)


def _images_at_a_time(x: Array, kernel: Array, padding: Padding) -> int:
  """Returns the number of images whose matrix and outputs are in memory at a time."""
  size, _, channels, features = kernel.shape
  squares = math.prod(
    -(-(before + length + after - size + 1) // 2)
    for length, (before, after) in zip(x.shape[1:3], padding, strict=True)
  )
  row = 4 * (size // 2 + 1) ** 2 * channels + 4 * features
  return winograd.images_at_a_time(len(x), 4 * squares * row)


def _conv_by_squares(x: Array, kernel: Array, padding: Padding) -> Array:
  """Convolves an image at stride 1: `[B, H, W, C]` -> `[B, H', W', F]`."""
  matrix = _kernel_of_squares(kernel)
  out = [
    before + length + after - len(kernel) + 1
    for length, (before, after) in zip(x.shape[1:3], padding, strict=True)
  ]

  def some(x):
    rows, (height, width) = _rows_of_squares(x, len(kernel), padding)
    y = (rows @ matrix).reshape(len(x), height, width, 2, 2, -1).swapaxes(2, 3)
    y = y.reshape(len(x), 2 * height, 2 * width, -1)
    return (), y[:, : out[0], : out[1]]

  return winograd.in_chunks(some, _images_at_a_time(x, kernel, padding), x)[1]


def _kernel_gradient_by_squares(x: Array, g: Array, kernel: Array, padding: Padding) -> Array:
  def some(x, g):
    rows, (height, width) = _rows_of_squares(x, len(kernel), padding)
    spare = [(0, 2 * count - n) for count, n in zip((height, width), g.shape[1:3], strict=True)]
    g = jnp.pad(g, ((0, 0), *spare, (0, 0))).reshape(len(g), height, 2, width, 2, -1)
    g = g.swapaxes(2, 3).reshape(len(rows), -1)
    return jnp.dot(rows.T, g, preferred_element_type=jnp.float32), ()

  matrix, _ = winograd.in_chunks(some, _images_at_a_time(x, kernel, padding), x, g)
  return jax.linear_transpose(_kernel_of_squares, kernel.astype(jnp.float32))(matrix)[0]
