"""Layers that do what their namesakes in `plain` do, faster on a CPU; `layers` chooses.

What XLA's CPU backend does well is the matrix product, the forward convolution of many maps and the
elementwise loop; these functions say the rest in those terms. Ratios are times of the plain layer over
those of the fast one, forward and backward together, float32, batch 32, on 2 cores with AVX-512
(`python -m benchmarks.layers`).
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from alexnet_jax.models import plain
from alexnet_jax.models.plain import Array, Padding

_IMAGE_CHANNELS = 4  # at most, of what counts as an image and not as maps
_CACHE = 2 * 2**20  # bytes of rearranged pixels that stay in the cache
_PIECE = 32  # images whose gradient of a kernel XLA takes at once
_FEW_TAPS = 9  # in a kernel: a matrix product for each one pays


def conv(x: Array, kernel: Array, bias: Array, stride: int, padding: Padding) -> Array:
  """`plain.conv` with faster gradients of the kernel.

  XLA takes that gradient as a convolution whose kernel is as large as the output, far from the speed of
  a matrix product. RATIOS conv1, conv3-5
  """
  x, kernel = _alike(x, kernel.astype(x.dtype))
  padding = tuple(map(tuple, padding))
  return _conv(x, kernel, stride, padding) + bias.astype(x.dtype)


def _alike(*arrays: Array) -> list[Array]:
  """Marks arrays as varying over all mesh axes that any of them varies over, as custom gradients need.

  Outside `shard_map` nothing varies.
  """
  axes = [jax.typeof(array).manual_axis_type.varying for array in arrays]
  missing = [tuple(frozenset().union(*axes) - own) for own in axes]
  return [lax.pcast(a, m, to='varying') if m else a for a, m in zip(arrays, missing, strict=True)]


def _xla_conv(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
  return lax.conv_general_dilated(
    x, kernel, (stride, stride), padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
  if stride == 1 and x.shape[-1] <= _IMAGE_CHANNELS:
    return _conv_by_pixels(x, kernel, padding)
  return _xla_conv(x, kernel, stride, padding)


def _conv_forward(x, kernel, stride, padding):
  return _conv(x, kernel, stride, padding), (x, kernel)


def _conv_backward(stride, padding, saved, g):
  x, kernel = saved
  (dx,) = jax.linear_transpose(lambda x: _xla_conv(x, kernel, stride, padding), x)(g)
  if x.shape[-1] <= _IMAGE_CHANNELS or (
    stride == 1 and kernel.shape[0] * kernel.shape[1] <= _FEW_TAPS
  ):
    dkernel = _kernel_gradient_by_pixels(x, g, kernel.shape, stride, padding)
  else:
    dkernel = _kernel_gradient_in_pieces(x, g, kernel, stride, padding)
  return dx, dkernel.astype(kernel.dtype)


_conv.defvjp(_conv_forward, _conv_backward)


def _kernel_gradient_in_pieces(
  x: Array, g: Array, kernel: Array, stride: int, padding: Padding
) -> Array:
  """XLA's own, of some images at a time: of a large batch at once it is several times slower."""

  def piece(x, g):
    of_kernel = lambda kernel: _xla_conv(x, kernel, stride, padding)
    return jax.linear_transpose(of_kernel, kernel)(g)[0].astype(jnp.float32)

  starts = range(0, len(x), _PIECE)
  return sum(piece(x[i : i + _PIECE], g[i : i + _PIECE]) for i in starts)


def _kernel_gradient_by_taps(x: Array, g: Array, shape: tuple, padding: Padding) -> Array:
  """Each tap of a 3x3 kernel: the input, shifted, times the gradient of the output."""
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  rows, columns, channels, features = shape
  height, width = g.shape[1:3]
  g = g.reshape(-1, features)

  def tap(i, j):
    return _product(x[:, i : i + height, j : j + width].reshape(-1, channels).T, g)

  return jnp.stack([tap(i, j) for i in range(rows) for j in range(columns)]).reshape(shape)


def _product(a: Array, b: Array) -> Array:
  """Matrix product, summed in float32."""
  return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _blocks(x: Array, size: int, stride: int, padding: Padding) -> Array:
  """Makes pixels of the squares of `stride` x `stride` pixels, so that windows move one at a time.

  `[B, H, W, C]` -> `[B, H', W', stride * stride * C]`, padded to what windows of `size` see.
  """
  if stride == 1:
    return jnp.pad(x, ((0, 0), *padding, (0, 0)))
  pads = [(0, 0)]
  for length, (before, after) in zip(x.shape[1:3], padding, strict=True):
    windows = (before + length + after - size) // stride + 1
    pads.append((before, (windows - 1 + -(-size // stride)) * stride - before - length))
  x = lax.pad(x, jnp.zeros((), x.dtype), [(*pad, 0) for pad in [*pads, (0, 0)]])
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // stride, stride, width // stride, stride, channels)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // stride, width // stride, -1)


def _windows(blocks: Array, size: int) -> Array:
  """What each window of `size` x `size` pixels sees: `[B, H, W, C]` -> `[B, H', W', size * size * C]`."""
  height, width = (length - size + 1 for length in blocks.shape[1:3])
  shifts = [(i, j) for i in range(size) for j in range(size)]
  return jnp.concatenate([blocks[:, i : i + height, j : j + width] for i, j in shifts], -1)


def _in_cache(rows: int, row_bytes: int) -> int:
  """Images to rearrange at a time: a divisor of `rows` whose windows stay in the cache."""
  fitting = max(1, _CACHE // row_bytes)
  return next(n for n in range(min(fitting, rows), 0, -1) if rows % n == 0)


def _conv_by_pixels(x: Array, kernel: Array, padding: Padding) -> Array:
  """A convolution of few channels as matrix products, a few images at a time. RATIO"""
  size, _, channels, features = kernel.shape
  blocks = _blocks(x, size, 1, padding)
  height, width = (length - size + 1 for length in blocks.shape[1:3])
  few = _in_cache(len(x), height * width * size * size * channels * x.dtype.itemsize)
  flat = kernel.reshape(-1, features)
  few_images = blocks.reshape(-1, few, *blocks.shape[1:])
  y = lax.map(lambda images: _product(_windows(images, size), flat).astype(x.dtype), few_images)
  return y.reshape(len(x), height, width, features)


def _kernel_gradient_by_pixels(
  x: Array, g: Array, shape: tuple, stride: int, padding: Padding
) -> Array:
  """The first layer's: windows times the gradient of the output, a few images at a time. RATIO"""
  size, _, channels, features = shape
  taps = -(-size // stride)  # a side of the kernel, in blocks
  blocks = _blocks(x, size, stride, padding)
  width = taps * taps * blocks.shape[-1]
  few = _in_cache(len(x), g.shape[1] * g.shape[2] * width * x.dtype.itemsize)

  def add(total, images):
    blocks, g = images
    windows = _windows(blocks, taps).reshape(-1, width)
    return total + _product(windows.T, g.reshape(-1, features)), None

  start, *_ = _alike(jnp.zeros((width, features), jnp.float32), g)
  chunks = [array.reshape(-1, few, *array.shape[1:]) for array in (blocks, g)]
  total, _ = lax.scan(add, start, chunks)
  total = total.reshape(taps, taps, stride, stride, channels, features).transpose(0, 2, 1, 3, 4, 5)
  return total.reshape(taps * stride, taps * stride, channels, features)[:size, :size]


def local_response_norm(x: Array, *, size: int, k: float, alpha: float, beta: float) -> Array:
  """`plain.local_response_norm` with the gradient written down: XLA's own is RATIO times slower."""
  return _response_norm(x, (-1,), size, k, alpha, beta)


def map_response_norm(x: Array, *, size: int, k: float, alpha: float, beta: float) -> Array:
  """`plain.map_response_norm` with the gradient written down. RATIO"""
  return _response_norm(x, (1, 2), size, k, alpha, beta)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4, 5))
def _response_norm(x, axes, size, k, alpha, beta):
  x32 = x.astype(jnp.float32)
  scale = k + alpha * _window_sum(x32 * x32, size, axes)
  return (x32 * plain.negative_power(scale, beta)).astype(x.dtype)


def _window_sum(x: Array, size: int, axes: tuple[int, ...], mirrored: bool = False) -> Array:
  for axis in axes:
    x = plain.neighbour_sum(x, size, axis, mirrored)
  return x


def _response_norm_forward(x, *constants):
  return _response_norm(x, *constants), x


def _response_norm_backward(axes, size, k, alpha, beta, x, g):
  # y_i = x_i s_i^-b, s_i = k + a sum_j x_j^2: dx_j = g_j s_j^-b - 2ab x_j sum_i g_i x_i s_i^-b / s_i,
  # summed over the windows i that hold j.
  x32, g32 = x.astype(jnp.float32), g.astype(jnp.float32)
  scale = k + alpha * _window_sum(x32 * x32, size, axes)
  power = plain.negative_power(scale, beta)
  shared = _window_sum(g32 * x32 * power / scale, size, axes, mirrored=True)
  return ((g32 * power - 2 * alpha * beta * x32 * shared).astype(x.dtype),)


_response_norm.defvjp(_response_norm_forward, _response_norm_backward)


def max_pool(x: Array, *, window: int, stride: int, rounding: str) -> Array:
  """`plain.max_pool` along rows, then along columns, each by strided slices. RATIO

  The first of the largest pixels gets the gradient: the first row that has one, and there the first.
  """
  for axis in (2, 1):
    windows = plain.pooled_size(x.shape[axis], window, stride, rounding)
    after = max(0, (windows - 1) * stride + window - x.shape[axis])
    pads = [(0, after if i == axis else 0) for i in range(x.ndim)]
    x = jnp.pad(x, pads, constant_values=-jnp.inf)
    last = (windows - 1) * stride + 1
    slices = [lax.slice_in_dim(x, i, i + last, stride, axis) for i in range(window)]
    x = functools.reduce(_larger, slices)
  return x


@jax.custom_jvp
def _larger(a: Array, b: Array) -> Array:
  """The larger of two; `jnp.maximum` would share the gradient where they are equal."""
  return jnp.maximum(a, b)


@_larger.defjvp
def _larger_jvp(primals, tangents):
  a, b = primals
  return jnp.maximum(a, b), jnp.where(a >= b, *tangents)
