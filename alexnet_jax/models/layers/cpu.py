"""Layers that do what their namesakes in `reference` do, faster on a CPU; `dispatch` chooses.

What XLA's CPU backend does well is the matrix product, the forward convolution of many maps and the
elementwise loop; these functions say the rest in those terms. Ratios are times of the reference layer over
those of the fast one, forward and backward together, float32, batch 128, on 2 cores with AVX-512
(`python -m benchmarks.layers`).
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from alexnet_jax.models.layers import reference
from alexnet_jax.models.layers.reference import Array, Padding

_IMAGE_CHANNELS = 4  # at most, of what counts as an image and not as maps
_CACHE = 2**19  # bytes of rearranged pixels that stay in the cache
PIECE = 32  # images whose gradient of a kernel XLA takes at once
_FEW_TAPS = 9  # in a kernel whose gradient is taken by pixels, over maps too


def conv(x: Array, kernel: Array, bias: Array, stride: int, padding: Padding) -> Array:
  """`reference.conv` with faster gradients of the kernel.

  XLA takes that gradient as a convolution whose kernel is as large as the output, far from the speed of
  a matrix product. Gains: conv1 1.9, conv2 1.8, conv3 to conv5 1.1 alone, and 1.1 of the whole step.
  """
  seen = [low + length + high for length, (low, high) in zip(x.shape[1:3], padding, strict=True)]
  if min(seen) < len(kernel):  # what is too small says so elsewhere
    return reference.conv(x, kernel, bias, stride, padding)
  x, kernel = _alike(x, kernel.astype(x.dtype))
  static = tuple((int(low), int(high)) for low, high in padding)
  return _conv(x, kernel, stride, static) + bias.astype(x.dtype)


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
    return _conv_by_pairs(x, kernel, padding)
  return _xla_conv(x, kernel, stride, padding)


def _conv_forward(x, kernel, stride, padding):
  return _conv(x, kernel, stride, padding), (x, kernel)


def _conv_backward(stride, padding, saved, g):
  x, kernel = saved
  (dx,) = jax.linear_transpose(lambda x: _xla_conv(x, kernel, stride, padding), x)(g)
  image = x.shape[-1] <= _IMAGE_CHANNELS
  if stride == 1 and image:
    dkernel = _kernel_gradient_by_pairs(x, g, kernel.shape, padding)
  elif image or (stride == 1 and kernel.shape[0] * kernel.shape[1] <= _FEW_TAPS):
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

  starts = range(0, len(x), PIECE)
  return sum(piece(x[i : i + PIECE], g[i : i + PIECE]) for i in starts)


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


def _windows(blocks: Array, rows: int, columns: int) -> Array:
  """What each window sees: `[B, H, W, C]` -> `[B, H', W', rows * columns * C]`."""
  height, width = blocks.shape[1] - rows + 1, blocks.shape[2] - columns + 1
  shifts = [(i, j) for i in range(rows) for j in range(columns)]
  return jnp.concatenate([blocks[:, i : i + height, j : j + width] for i, j in shifts], -1)


def _in_cache(rows: int, row_bytes: int) -> int:
  """Images to rearrange at a time: a divisor of `rows` whose windows stay in the cache."""
  fitting = max(1, _CACHE // row_bytes)
  return next(n for n in range(min(fitting, rows), 0, -1) if rows % n == 0)


def _windows_times(blocks: Array, g: Array, rows: int, columns: int) -> Array:
  """Windows times the gradient of the output, `[B, H', W', F]`, a few images at a time.

  Returns float32 `[rows * columns * C, F]`.
  """
  width, features = rows * columns * blocks.shape[-1], g.shape[-1]
  few = _in_cache(len(g), g.shape[1] * g.shape[2] * width * g.dtype.itemsize)

  def add(total, images):
    blocks, g = images
    windows = _windows(blocks, rows, columns).reshape(-1, width)
    return total + _product(windows.T, g.reshape(-1, features)), None

  start, *_ = _alike(jnp.zeros((width, features), jnp.float32), g)
  chunks = [array.reshape(-1, few, *array.shape[1:]) for array in (blocks, g)]
  total, _ = lax.scan(add, start, chunks)
  return total


def _kernel_gradient_by_pixels(
  x: Array, g: Array, shape: tuple, stride: int, padding: Padding
) -> Array:
  size, _, channels, features = shape
  taps = -(-size // stride)  # a side of the kernel, in blocks
  total = _windows_times(_blocks(x, size, stride, padding), g, taps, taps)
  total = total.reshape(taps, taps, stride, stride, channels, features).transpose(0, 2, 1, 3, 4, 5)
  return total.reshape(taps * stride, taps * stride, channels, features)[:size, :size]


# Of an image at stride 1 a window has few numbers, and a product of few numbers is slow. So two neighbours
# in a row become one pixel, and the kernel two that lie a pixel apart: a fifth more work in longer products.
# Gains over windows of single pixels, CIFAR-10's conv1 on one core: 1.8 forward, 1.6 backward.


def _pairs(x: Array, size: int, padding: Padding) -> Array:
  """`[B, H, W, C]` -> `[B, H', W' / 2, 2 * C]`, padded to what pairs of windows of `size` see."""
  rows, (before, after) = padding
  windows = before + x.shape[2] + after - size + 1
  seen = 2 * (-(-windows // 2) - 1 + _taps_of_pairs(size))
  x = jnp.pad(x, ((0, 0), rows, (before, seen - before - x.shape[2]), (0, 0)))
  batch, height, width, channels = x.shape
  return x.reshape(batch, height, width // 2, 2 * channels)


def _taps_of_pairs(size: int) -> int:
  """Pixels of `_pairs` that two neighbouring windows of `size` see."""
  return -(-(size + 1) // 2)


def _conv_by_pairs(x: Array, kernel: Array, padding: Padding) -> Array:
  size, _, channels, features = kernel.shape
  taps = _taps_of_pairs(size)
  sides = [((0, 0), (i, 2 * taps - size - i), (0, 0), (0, 0)) for i in (0, 1)]
  twice = jnp.stack([jnp.pad(kernel, pads) for pads in sides], 3)
  wide = twice.reshape(size, taps, 2 * channels, 2 * features)
  y = _xla_conv(_pairs(x, size, padding), wide, 1, ((0, 0), (0, 0)))
  y = y.reshape(*y.shape[:2], -1, features)
  return y[:, :, : x.shape[2] + sum(padding[1]) - size + 1]


def _kernel_gradient_by_pairs(x: Array, g: Array, shape: tuple, padding: Padding) -> Array:
  size, _, channels, features = shape
  taps = _taps_of_pairs(size)
  g = jnp.pad(g, ((0, 0), (0, 0), (0, g.shape[2] % 2), (0, 0)))
  g = g.reshape(*g.shape[:2], -1, 2 * features)
  total = _windows_times(_pairs(x, size, padding), g, size, taps)
  total = total.reshape(size, 2 * taps, channels, 2, features)
  return total[:, :size, :, 0] + total[:, 1 : size + 1, :, 1]


def local_response_norm(x: Array, *, size: int, k: float, alpha: float, beta: float) -> Array:
  """`reference.local_response_norm` with the gradient written down: 2.0 times as fast."""
  return _response_norm(x, (-1,), size, k, alpha, beta)


def map_response_norm(x: Array, *, size: int, k: float, alpha: float, beta: float) -> Array:
  """`reference.map_response_norm` with the gradient written down: 1.7 times as fast."""
  return _response_norm(x, (1, 2), size, k, alpha, beta)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4, 5))
def _response_norm(x, axes, size, k, alpha, beta):
  x32 = lax.optimization_barrier(x).astype(jnp.float32)  # else what made x is done again and again
  scale = k + alpha * _window_sum(x32 * x32, size, axes)
  return (x32 * _negative_power(scale, beta)).astype(x.dtype)


def _negative_power(x: Array, beta: float) -> Array:
  """`x ** -beta` of what is at least 1, in one pass over `x`: two square roots take several."""
  return jnp.exp(-beta * jnp.log(x))


def _window_sum(x: Array, size: int, axes: tuple[int, ...], mirrored: bool = False) -> Array:
  for axis in axes:
    x = reference.neighbour_sum(x, size, axis, mirrored)
  return x


def _response_norm_forward(x, *constants):
  return _response_norm(x, *constants), x


def _response_norm_backward(axes, size, k, alpha, beta, x, g):
  # y_i = x_i s_i^-b, s_i = k + a sum_j x_j^2: dx_j = g_j s_j^-b - 2ab x_j sum_i g_i x_i s_i^-b / s_i,
  # summed over the windows i that hold j.
  x32, g32 = x.astype(jnp.float32), g.astype(jnp.float32)
  scale = k + alpha * _window_sum(x32 * x32, size, axes)
  power = _negative_power(scale, beta)
  shared = _window_sum(g32 * x32 * power / scale, size, axes, mirrored=True)
  return ((g32 * power - 2 * alpha * beta * x32 * shared).astype(x.dtype),)


_response_norm.defvjp(_response_norm_forward, _response_norm_backward)


def max_pool(x: Array, *, window: int, stride: int, rounding: str) -> Array:
  """`reference.max_pool` along rows, then columns, with few passes for the gradient: 11 to 18 times
  as fast."""
  if min(x.shape[1:3]) < window:  # what is too small says so elsewhere
    return reference.max_pool(x, window=window, stride=stride, rounding=rounding)
  return _max_pool(x, window, stride, rounding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: Array, window: int, stride: int, rounding: str) -> Array:
  x = _whole_windows(lax.optimization_barrier(x), window, stride, rounding)
  for axis in (2, 1):
    count = (x.shape[axis] - window) // stride + 1
    x = functools.reduce(jnp.maximum, [_every(x, i, count, stride, axis) for i in range(window)])
  return x


def _whole_windows(x: Array, window: int, stride: int, rounding: str) -> Array:
  """Cuts or pads `x` to what the windows cover."""
  pads = [(0, 0, 0)]
  for length in x.shape[1:3]:
    windows = reference.pooled_size(length, window, stride, rounding)
    pads.append((0, (windows - 1) * stride + window - length, 0))
  return lax.pad(x, jnp.asarray(-jnp.inf, x.dtype), [*pads, (0, 0, 0)])


def _every(x: Array, start: int, count: int, stride: int, axis: int) -> Array:
  """`count` pixels of `x`, `stride` apart, from `start` on."""
  return lax.slice_in_dim(x, start, start + (count - 1) * stride + 1, stride, axis)


def _max_pool_forward(x, window, stride, rounding):
  return _max_pool(x, window, stride, rounding), x


def _max_pool_backward(window, stride, rounding, x, g):
  covered = _whole_windows(x, window, stride, rounding)
  height, width = g.shape[1:3]
  best = jnp.full_like(g, -jnp.inf)
  first = jnp.zeros(g.shape, jnp.int8)  # of the largest pixels of a window, counted by rows
  for i in range(window):
    rows = _every(covered, i, height, stride, 1)
    for j in range(window):
      pixel = _every(rows, j, width, stride, 2)
      first = jnp.where(pixel > best, jnp.int8(i * window + j), first)
      best = jnp.maximum(best, pixel)
  first, g = lax.optimization_barrier((first, g))

  # The pixels whose place in a square of `stride` pixels is (r, c) take from few windows each.
  reach = (window - 1) // stride
  pads = ((0, 0), (reach, reach), (reach, reach), (0, 0))
  first, g = jnp.pad(first, pads), jnp.pad(g, pads)

  def taken(i, j):
    """What the pixels at place (i, j) of the windows take."""
    top, left = reach - i // stride, reach - j // stride
    here = (slice(None), slice(top, top + height + reach), slice(left, left + width + reach))
    return jnp.where(first[here] == i * window + j, g[here], 0)

  def place(r, c):
    nothing = jnp.zeros((len(g), height + reach, width + reach, g.shape[-1]), g.dtype)
    takes = (taken(i, j) for i in range(r, window, stride) for j in range(c, window, stride))
    return functools.reduce(jnp.add, takes, nothing)

  by_row = [jnp.stack([place(r, c) for c in range(stride)], 3) for r in range(stride)]
  squares = jnp.stack(by_row, 2)  # [B, H', stride, W', stride, C]
  batch, channels = x.shape[0], x.shape[-1]
  dx = squares.reshape(batch, stride * (height + reach), stride * (width + reach), channels)
  cut = [(0, size - length, 0) for size, length in zip(x.shape, dx.shape, strict=True)]
  return (lax.pad(dx, jnp.zeros((), dx.dtype), cut),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
