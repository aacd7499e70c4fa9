"""The definition of each layer, as a pure function of arrays.

Networks call `models.layers`, which replaces some of these functions by faster ones (`dispatch.py`). Unless
it says otherwise, a function works on the maps of one tower, `[B, H, W, C]`, and returns the dtype of its
input. In the comments, P is the 2012 paper, O is the authors' code of 2012, and FACTS is docs/FACTS.md.
"""

from collections.abc import Sequence
import functools
import math

import jax
from jax import lax
import jax.numpy as jnp

Array = jax.Array
Padding = Sequence[tuple[int, int]]


def conv(x: Array, kernel: Array, bias: Array, stride: int, padding: Padding) -> Array:
  """Computes the cross-correlation of `x` with `kernel`, plus `bias`.

  Args:
    x: `[B, H, W, Cin]`, any float dtype.
    kernel: `[kh, kw, Cin, Cout]`, cast to the dtype of `x`.
    bias: `[Cout]`.
    stride: pixels between windows, the same in both directions.
    padding: `((top, bottom), (left, right))` zeros. The paper's conv1 pads a 224x224 image with 3 zero rows
      at the bottom and 3 zero columns at the right, which gives 55x55 outputs (O, layer.py).

  Returns:
    `[B, H', W', Cout]`.
  """
  y = lax.conv_general_dilated(
    x,
    kernel.astype(x.dtype),
    window_strides=(stride, stride),
    padding=[(int(low), int(high)) for low, high in padding],
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  return add_bias(y, bias)


def add_bias(y: Array, bias: Array) -> Array:
  """Adds a bias in float32 or more, so that its gradient, a sum over all positions, is summed in it too.

  Args:
    y: `[..., C]`, any float dtype.
    bias: `[C]`, or a shape that broadcasts to that of `y`.

  Returns:
    The shape and the dtype of `y`.
  """
  wide = jnp.promote_types(y.dtype, jnp.float32)
  return (y.astype(wide) + bias.astype(wide)).astype(y.dtype)


def tower_convs(
  xs: Sequence[Array], kernel: Array, bias: Array, stride: int, padding: Padding
) -> list[Array]:
  """Computes `conv` in each tower.

  Args:
    xs: the maps that each tower reads, `[B, H, W, Cin]`. Towers that share their maps have the same array.
    kernel: `[towers, kh, kw, Cin, Cout]`.
    bias: `[towers, Cout]`.
    stride: as in `conv`.
    padding: as in `conv`.

  Returns:
    For each tower `[B, H', W', Cout]`.
  """
  return [conv(x, kernel[t], bias[t], stride, padding) for t, x in enumerate(xs)]


def dense(x: Array, kernel: Array) -> Array:
  """Multiplies matrices, `[B, Cin] x [Cin, Cout] -> [B, Cout]`; the kernel is cast to the dtype of `x`."""
  return x @ kernel.astype(x.dtype)


def neighbour_sum(x: Array, size: int, axis: int, mirrored: bool = False) -> Array:
  """Sums `x` over windows of `size` neighbours along `axis`, clipped at both ends.

  The window of index i starts at i - size//2, as in cuda-convnet. If `mirrored`, it ends at i + size//2
  instead; the two differ for even sizes only.
  """
  before = size // 2 if not mirrored else size - 1 - size // 2
  pads = [(0, 0)] * x.ndim
  pads[axis] = (before, size - 1 - before)
  padded = jnp.pad(x, pads)
  length = x.shape[axis]
  parts = (lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(size))
  return functools.reduce(jnp.add, parts)


def negative_power(x: Array, beta: float) -> Array:
  """Computes `x ** -beta`; for the usual beta of 0.75 with two square roots, several times cheaper."""
  if beta == 0.75:
    root = lax.rsqrt(x)
    return root * jnp.sqrt(root)
  return x**-beta


def local_response_norm(x: Array, *, size: int, k: float, alpha: float, beta: float) -> Array:
  """Normalises responses across neighbouring maps (P section 3.3).

  `y_i = x_i / (k + alpha * sum_{j in window(i)} x_j^2) ** beta`, computed in float32.

  Args:
    x: `[..., C]`.
    size: number of maps in a window (n = 5 in P). Windows are clipped at the first and last map of `x`.
    k: the constant added to the sum.
    alpha: the multiplier of the sum itself. In P, 1e-4 multiplies the sum. O, Caffe and PyTorch divide alpha
      by n, so their 1e-4 is passed as 1e-4 / 5 (FACTS section 1.3).
    beta: the exponent.

  Returns:
    An array like `x`.
  """
  x32 = x.astype(jnp.float32)
  scale = k + alpha * neighbour_sum(x32 * x32, size, -1)
  return (x32 * negative_power(scale, beta)).astype(x.dtype)


def map_response_norm(x: Array, *, size: int, k: float, alpha: float, beta: float) -> Array:
  """Normalises responses within each map, over `size` x `size` pixels clipped at the border.

  `y = x / (k + alpha * sum_{window} x^2) ** beta`. This is the layer "cnorm2" of the authors' code, which the
  paper does not mention (FACTS section 1.3).

  Args:
    x: `[B, H, W, C]`.
    size: side of the square window, in pixels.
    k: the constant added to the sum.
    alpha: the multiplier of the sum.
    beta: the exponent.

  Returns:
    An array like `x`.
  """
  x32 = x.astype(jnp.float32)
  scale = k + alpha * neighbour_sum(neighbour_sum(x32 * x32, size, 1), size, 2)
  return (x32 * negative_power(scale, beta)).astype(x.dtype)


def pooled_size(size: int, window: int, stride: int, rounding: str) -> int:
  """Returns the side of the output of a pooling layer in pixels, `1 + round((size - window) / stride)`.

  `rounding` is 'ceil', as in cuda-convnet and Caffe, or 'floor', PyTorch's default (FACTS section 1.2). A
  window that would begin outside the maps is left out, as in Caffe and PyTorch.
  """
  windows = 1 + {'ceil': math.ceil, 'floor': math.floor}[rounding]((size - window) / stride)
  return windows - 1 if 0 < size <= (windows - 1) * stride else windows


def max_pool(x: Array, *, window: int, stride: int, rounding: str) -> Array:
  """Takes the maximum over `window` x `window` pixels, `stride` apart (P section 3.4: 3 and 2).

  Windows that extend beyond the bottom or right (with `rounding='ceil'`) are clipped. If several pixels of a
  window are the maximum, the first one gets the gradient, as in cuDNN and PyTorch. In cuda-convnet every one
  of them gets it (FACTS section 1.2).

  Args:
    x: `[B, H, W, C]`.
    window: side of the window, in pixels.
    stride: pixels between windows.
    rounding: 'ceil' or 'floor' (see `pooled_size`).

  Returns:
    `[B, H', W', C]`.
  """
  pads = [(0, 0)]
  for size in x.shape[1:3]:
    reach = (pooled_size(size, window, stride, rounding) - 1) * stride + window
    pads.append((0, max(0, reach - size)))
  pads.append((0, 0))
  return lax.reduce_window(
    x, -jnp.inf, lax.max, (1, window, window, 1), (1, stride, stride, 1), pads
  )


def dropout(
  x: Array,
  keys: Array | None,
  *,
  rate: float,
  inverted: bool,
  part: tuple[Array | int, int] = (0, 1),
) -> Array:
  """Applies dropout (P section 4.2), with random numbers of its own for each row.

  The paper's form multiplies by a 0/1 mask in training and by `1 - rate` at test; the inverted form
  (Caffe, PyTorch) divides by `1 - rate` in training and does nothing at test.

  Args:
    x: `[B, ...]`.
    keys: one random key for each row, `[B]`. The mask of a row then depends neither on its batch nor on its
      device. None means test time.
    rate: the probability of dropping an element.
    inverted: whether to use the inverted form.
    part: (i, n) if `x` is the i-th of n equal parts of a layer along the last axis. The mask is the same part
      of the mask of the whole layer, which does not depend on n.

  Returns:
    An array like `x`.
  """
  keep = 1.0 - rate
  if keys is None:
    return x if inverted else x * jnp.asarray(keep, x.dtype)
  index, parts = part
  width = x.shape[-1]
  whole = (*x.shape[1:-1], width * parts)
  mask = jax.vmap(lambda key: jax.random.bernoulli(key, keep, whole))(keys)
  if parts > 1:
    mask = lax.dynamic_slice_in_dim(mask, index * width, width, axis=-1)
  x = jnp.where(mask, x, 0)
  return x / jnp.asarray(keep, x.dtype) if inverted else x
