"""The layers of `reference`, written for GPUs.

Networks use a layer of this module only if `dispatch` lists it, which requires a measured gain on a GPU
(`python -m benchmarks.gpu --stages=f`). Only `max_pool` is listed yet, for another reason: its gradient can
be computed deterministically. If a layer can be computed in several ways, the argument `method` selects one,
so that the benchmark can compare them. Activations keep their dtype, bfloat16 or float32; sums and powers
are computed in float32.
"""

from collections.abc import Callable, Sequence
import functools

import jax
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
import jax.numpy as jnp

from alexnet_jax.models.layers import blocks, reference
from alexnet_jax.models.layers.reference import Array, Padding, add_bias

NORM_METHODS = ('fused', 'band', 'pallas')
CONV_METHODS = ('plain', 'channels_first', 'blocks')
TOWER_METHODS = ('apart', 'grouped', 'joined')

_BLOCK_ELEMENTS = 4096  # number of activations in a block of the Pallas kernels
_LEAST_SIDE = 16  # smallest side of a matrix product in Triton


# --- Convolution


def conv(
  x: Array, kernel: Array, bias: Array, stride: int, padding: Padding, method: str = 'plain'
) -> Array:
  """Computes `reference.conv` in one of several ways.

  Args:
    x, kernel, bias, stride, padding: as in `reference.conv`.
    method: one of `CONV_METHODS`: `plain` is the reference layer; `channels_first` gives XLA the same
      convolution as NCHW; `blocks` turns each square of `stride` x `stride` pixels into one pixel, so that
      conv1 becomes a convolution of stride 1 over 48 channels instead of 3.

  Returns:
    `[B, H', W', Cout]`.

  Raises:
    ValueError: the method is unknown.
  """
  if method == 'plain':
    return reference.conv(x, kernel, bias, stride, padding)
  kernel = kernel.astype(x.dtype)
  if method == 'channels_first':
    y = lax.conv_general_dilated(
      x.transpose(0, 3, 1, 2),
      kernel,
      (stride, stride),
      _pairs(padding),
      dimension_numbers=('NCHW', 'HWIO', 'NCHW'),
    )
    return add_bias(y.transpose(0, 2, 3, 1), bias)
  if method == 'blocks':
    return add_bias(_conv_of_blocks(x, kernel, stride, padding), bias)
  raise ValueError(f'conv has no method {method!r}: choose one of {", ".join(CONV_METHODS)}')


def _pairs(padding: Padding) -> list[tuple[int, int]]:
  return [(int(low), int(high)) for low, high in padding]


def _conv_of_blocks(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
  """Convolves blocks of `stride` x `stride` pixels with stride 1; the bias is not added."""
  return lax.conv_general_dilated(
    blocks.of_image(x, len(kernel), stride, padding),
    blocks.of_kernel(kernel, stride),
    (1, 1),
    'VALID',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def tower_convs(
  xs: Sequence[Array],
  kernel: Array,
  bias: Array,
  stride: int,
  padding: Padding,
  method: str = 'joined',
) -> list[Array]:
  """Computes the convolutions of all towers on one device in one of several ways.

  Args:
    xs: the maps of each of the T towers, `[B, H, W, Cin]`.
    kernel: `[T, kh, kw, Cin, Cout]`.
    bias: `[T, Cout]`.
    stride, padding: as in `reference.conv`.
    method: one of `TOWER_METHODS`: `apart` is one convolution for each tower; `grouped` is one convolution
      with T groups; `joined` is one convolution with the kernels of all towers side by side, for towers
      that read the same array (the image, or the maps after an exchange). If they read different arrays,
      `joined` does what `grouped` does.

  Returns:
    T arrays `[B, H', W', Cout]`.

  Raises:
    ValueError: the method is unknown.
  """
  if method not in TOWER_METHODS:
    raise ValueError(
      f'tower_convs has no method {method!r}: choose one of {", ".join(TOWER_METHODS)}'
    )
  if method == 'apart' or len(xs) == 1:
    return [reference.conv(x, kernel[t], bias[t], stride, padding) for t, x in enumerate(xs)]
  shared = all(x is xs[0] for x in xs)
  towers, height, width, channels, _ = kernel.shape
  joined = method == 'joined' and shared
  x = xs[0] if joined else jnp.concatenate(xs, -1)
  # [kh, kw, Cin, T * Cout]: the features of a group are contiguous.
  side_by_side = kernel.transpose(1, 2, 3, 0, 4).reshape(height, width, channels, -1)
  y = lax.conv_general_dilated(
    x,
    side_by_side.astype(x.dtype),
    (stride, stride),
    _pairs(padding),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=1 if joined else towers,
  )
  return jnp.split(add_bias(y, bias.reshape(-1)), towers, -1)


# --- Response normalisation


def local_response_norm(
  x: Array, *, size: int, k: float, alpha: float, beta: float, method: str = 'fused'
) -> Array:
  """Computes `reference.local_response_norm`, with a gradient that is written down instead of derived.

  The gradient is computed from `x` and the gradient of the output alone. The forward and the backward pass
  can therefore each read and write the activations only once.

  Args:
    x, size, k, alpha, beta: as in `reference.local_response_norm`.
    method: one of `NORM_METHODS`: `fused` lets XLA fuse the window sums; `band` computes them as a product
      with a banded matrix of ones; `pallas` is one Triton kernel for the forward pass and one for the
      gradient, which contain the banded product. On a CPU the kernels run in Pallas's interpreter.

  Raises:
    ValueError: the method is unknown.
  """
  if method not in NORM_METHODS:
    raise ValueError(
      f'local_response_norm has no method {method!r}: choose one of {", ".join(NORM_METHODS)}'
    )
  return _response_norm(x, method, (x.ndim - 1,), size, k, alpha, beta)


def map_response_norm(x: Array, *, size: int, k: float, alpha: float, beta: float) -> Array:
  """Computes `reference.map_response_norm`, with a gradient that is written down instead of derived."""
  return _response_norm(x, 'fused', (1, 2), size, k, alpha, beta)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4, 5, 6))
def _response_norm(x, method, axes, size, k, alpha, beta):
  if method == 'pallas':
    return _call(_norm_kernel, size, k, alpha, beta, x)
  x32 = x.astype(jnp.float32)
  total = _window_sum(method, axes, size, x.dtype)
  return (x32 * _negative_power(k + alpha * total(x32 * x32), beta)).astype(x.dtype)


def _response_norm_forward(x, *constants):
  return _response_norm(x, *constants), x


def _response_norm_backward(method, axes, size, k, alpha, beta, x, g):
  # The formula is explained in `cpu_norm._response_norm_backward`.
  if method == 'pallas':
    return (_call(_norm_gradient_kernel, size, k, alpha, beta, x, g),)
  x32, g32 = x.astype(jnp.float32), g.astype(jnp.float32)
  total = _window_sum(method, axes, size, x.dtype)
  scale = k + alpha * total(x32 * x32)
  power = _negative_power(scale, beta)
  shared = total(g32 * x32 * power / scale, mirrored=True)
  return ((g32 * power - 2 * alpha * beta * x32 * shared).astype(x.dtype),)


_response_norm.defvjp(_response_norm_forward, _response_norm_backward)


def _negative_power(x: Array, beta: float) -> Array:
  """Computes `x ** -beta` for positive values."""
  return jnp.exp(-beta * jnp.log(x))


def _window_sum(method: str, axes: tuple[int, ...], size: int, dtype) -> Callable[..., Array]:
  """Returns a function that sums float32 values over the window of each index.

  With `mirrored=True` that function sums over the indices whose windows contain the index.
  """

  def neighbours(values: Array, mirrored: bool = False) -> Array:
    for axis in axes:
      values = reference.neighbour_sum(values, size, axis, mirrored)
    return values

  def banded(values: Array, mirrored: bool = False) -> Array:
    index = jnp.arange(values.shape[-1])
    band = _band(index[:, None], index[None], size)
    band = (band.T if mirrored else band).astype(dtype)
    return jnp.matmul(
      values.astype(dtype),
      band,
      precision=lax.Precision.HIGHEST,  # for float32 operands; products of bfloat16 are exact anyway
      preferred_element_type=jnp.float32,
    )

  return banded if method == 'band' else neighbours


def _band(source: Array, centre: Array, size: int) -> Array:
  """Returns whether index `source` lies in the window of index `centre`, as in `reference.neighbour_sum`."""
  first = centre - size // 2
  return (source >= first) & (source < first + size)


def _call(kernel: Callable, size: int, k: float, alpha: float, beta: float, *arrays: Array):
  """Runs a Pallas kernel on arrays `[..., C]` of the same shape; returns an array of this shape."""
  x = arrays[0]
  channels = x.shape[-1]
  count = x.size // channels
  lanes = max(_LEAST_SIDE, pl.next_power_of_2(channels))
  rows = max(_LEAST_SIDE, _BLOCK_ELEMENTS // lanes)
  bound = functools.partial(
    kernel, shape=(count, channels), block=(rows, lanes), constants=(size, k, alpha, beta)
  )

  def call(interpret, *flat):
    return pl.pallas_call(
      bound,
      out_shape=jax.ShapeDtypeStruct(
        (count, channels), x.dtype, manual_axis_type=jax.typeof(x).manual_axis_type
      ),
      grid=(pl.cdiv(count, rows),),
      compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
      interpret=interpret,
      name=kernel.__name__.strip('_'),
    )(*flat)

  y = lax.platform_dependent(
    *(array.reshape(count, channels) for array in arrays),
    cpu=functools.partial(call, True),
    default=functools.partial(call, False),
  )
  return y.reshape(x.shape)


def _block_of_program(shape: tuple[int, int], block: tuple[int, int]) -> tuple[tuple, Array]:
  """Returns the slices of the block of this program, and a mask of the elements inside the array."""
  first = pl.program_id(0) * block[0]
  rows = first + lax.broadcasted_iota(jnp.int32, block, 0)
  lanes = lax.broadcasted_iota(jnp.int32, block, 1)
  return (pl.ds(first, block[0]), pl.ds(0, block[1])), (rows < shape[0]) & (lanes < shape[1])


def _sum_in_block(values: Array, dtype, size: int, mirrored: bool = False) -> Array:
  """Sums float32 values `[rows, lanes]` over windows, as a product with a banded matrix of ones."""
  square = (values.shape[1],) * 2
  down, across = (lax.broadcasted_iota(jnp.int32, square, axis) for axis in (0, 1))
  band = _band(across, down, size) if mirrored else _band(down, across, size)
  operands = values.astype(dtype), band.astype(dtype)
  return jnp.dot(*operands, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


def _norm_kernel(x_ref, y_ref, *, shape, block, constants):
  size, k, alpha, beta = constants
  index, inside = _block_of_program(shape, block)
  x = triton.load(x_ref.at[index], mask=inside, other=0).astype(jnp.float32)
  scale = k + alpha * _sum_in_block(x * x, x_ref.dtype, size)
  y = x * _negative_power(scale, beta)
  triton.store(y_ref.at[index], y.astype(y_ref.dtype), mask=inside)


def _norm_gradient_kernel(x_ref, g_ref, dx_ref, *, shape, block, constants):
  size, k, alpha, beta = constants
  index, inside = _block_of_program(shape, block)
  x = triton.load(x_ref.at[index], mask=inside, other=0).astype(jnp.float32)
  g = triton.load(g_ref.at[index], mask=inside, other=0).astype(jnp.float32)
  scale = k + alpha * _sum_in_block(x * x, x_ref.dtype, size)
  power = _negative_power(scale, beta)
  shared = _sum_in_block(g * x * power / scale, x_ref.dtype, size, mirrored=True)
  dx = g * power - 2 * alpha * beta * x * shared
  triton.store(dx_ref.at[index], dx.astype(dx_ref.dtype), mask=inside)


# --- Max pooling


def max_pool(x: Array, *, window: int, stride: int, rounding: str) -> Array:
  """Computes `reference.max_pool`, with a gradient that is a sum of padded arrays.

  XLA fuses this sum into one loop; its own gradient is a select-and-scatter. When a gradient is computed, the
  forward pass stores for each window the index of its first largest pixel, int8 `[B, H', W', C]`, instead of
  the input.
  """
  if min(x.shape[1:3]) < window or window * window > 127:
    return reference.max_pool(x, window=window, stride=stride, rounding=rounding)
  return _max_pool(x, x.shape, window, stride, rounding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _max_pool(x, _, window, stride, rounding):
  return reference.max_pool(x, window=window, stride=stride, rounding=rounding)


def _max_pool_forward(x, _, window, stride, rounding):
  sides = [reference.pooled_size(n, window, stride, rounding) for n in x.shape[1:3]]
  pads = [
    (0, (n - 1) * stride + window - have, 0) for n, have in zip(sides, x.shape[1:3], strict=True)
  ]
  covered = lax.pad(x, jnp.asarray(-jnp.inf, x.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
  shape = (len(x), *sides, x.shape[-1])
  best, index = jnp.full(shape, -jnp.inf, x.dtype), jnp.zeros(shape, jnp.int8)
  for i in range(window):
    for j in range(window):
      ends = [start + (n - 1) * stride + 1 for start, n in zip((i, j), sides, strict=True)]
      pixel = covered[:, i : ends[0] : stride, j : ends[1] : stride]
      index = jnp.where(pixel > best, jnp.int8(i * window + j), index)
      best = jnp.maximum(best, pixel)
  return best, index


def _max_pool_backward(shape, window, stride, _, index, g):
  g32, zero = g.astype(jnp.float32), jnp.zeros((), jnp.float32)
  total: Array | float = 0.0
  for i in range(window):
    for j in range(window):
      # The gradient for the pixels in row i and column j of their windows.
      part = jnp.where(index == i * window + j, g32, 0)
      pads = [(0, 0, 0)]
      for start, windows, length in zip((i, j), g.shape[1:3], shape[1:3], strict=True):
        pads.append((start, length - (start + (windows - 1) * stride + 1), stride - 1))
      total = total + lax.pad(part, zero, [*pads, (0, 0, 0)])
  return (jnp.asarray(total).astype(g.dtype),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
