"""Layers with parameters, computed for the towers on this device, and the exchange between towers.

Each layer takes and returns `xs`, a list with one array for each local tower. On one device all towers
are local. Under `shard_map` over a mesh axis of size two each device holds one tower, and the same code
then communicates.
"""

import math

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from alexnet_jax.models import layers
from alexnet_jax.models.initializers import Initializer

Array = jax.Array
Towers = list[Array]


def exchange(xs: Towers, towers: int, axis: str | None) -> Towers:
  """Gives every tower the maps of all towers, concatenated on channels in tower order.

  This is the communication between the paper's GPUs (section 3.5): an all-gather where the towers are on
  different devices, a concatenation where they are on one.

  Args:
    xs: `[B, ..., C]`, one array for each local tower.
    towers: number of towers of the network.
    axis: the mesh axis over which the towers are spread, or None.

  Returns:
    For each local tower the same array `[B, ..., towers * C]`.
  """
  x = jnp.concatenate(xs, axis=-1)
  if len(xs) < towers:
    x = lax.all_gather(x, axis, axis=x.ndim - 1, tiled=True)
  return [x] * len(xs)


def axis_size(axis: str | None) -> int:
  """Returns the number of devices along a mesh axis under `shard_map`, or 1 if `axis` is None."""
  return lax.axis_size(axis) if axis else 1


class TowerConv(nn.Module):
  """A convolution in each local tower.

  Attributes:
    features: maps of one tower.
    size: side of the kernel, in pixels.
    stride: distance between neighbouring windows, in pixels.
    padding: zeros around the maps, `((top, bottom), (left, right))`.
    kernel_init, bias_init: called as `(key, shape, fan_in)`.
  """

  features: int
  size: int
  stride: int
  padding: layers.Padding
  kernel_init: Initializer
  bias_init: Initializer

  @nn.compact
  def __call__(self, xs: Towers) -> Towers:
    shape = (len(xs), self.size, self.size, xs[0].shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape, math.prod(shape[1:4]))
    bias = self.param('bias', self.bias_init, (len(xs), self.features), math.prod(shape[1:4]))
    return layers.tower_convs(xs, kernel, bias, self.stride, self.padding)


class TowerDense(nn.Module):
  """A fully connected layer in each local tower.

  Attributes:
    features: units of one tower, or of one device where the units are spread over devices.
    kernel_init, bias_init: called as `(key, shape, fan_in)`.
  """

  features: int
  kernel_init: Initializer
  bias_init: Initializer

  @nn.compact
  def __call__(self, xs: Towers) -> Towers:
    fan_in = xs[0].shape[-1]
    kernel = self.param('kernel', self.kernel_init, (len(xs), fan_in, self.features), fan_in)
    bias = self.param('bias', self.bias_init, (len(xs), self.features), fan_in)
    # One product of all towers, because a slice of the kernel for each tower would be a copy.
    ys = layers.dense(jnp.stack(xs), kernel)
    return [layers.add_bias(y, bias[t]) for t, y in enumerate(ys)]


class Head(nn.Module):
  """The last layer: the sum of the partial logits of all towers, plus one bias.

  Attributes:
    features: number of classes.
    towers: number of towers of the network.
    axis: the mesh axis over which the towers are spread, or None.
    unit_axis: the mesh axis whose devices hold different units of the layer before, for all rows of the
      batch, or None. Each device receives the sums for its own rows.
    kernel_init, bias_init: called as `(key, shape, fan_in)`.
  """

  features: int
  towers: int
  axis: str | None
  unit_axis: str | None
  kernel_init: Initializer
  bias_init: Initializer

  @nn.compact
  def __call__(self, xs: Towers) -> Array:
    width = xs[0].shape[-1]
    shape = (len(xs), width, self.features)
    fan_in = self.towers * width  # the units of all towers contribute to each logit
    kernel = self.param('kernel', self.kernel_init, shape, fan_in)
    bias = self.param('bias', self.bias_init, (self.features,), fan_in)
    # In float32 for every dtype of the network, because the loss reads differences of logits.
    logits = sum(layers.dense(x.astype(jnp.float32), kernel[t]) for t, x in enumerate(xs))
    if self.axis:
      logits = lax.psum(logits, self.axis)
    if self.unit_axis:
      logits = lax.psum_scatter(logits, self.unit_axis, scatter_dimension=0, tiled=True)
    return logits + bias


class TowerLocal(TowerConv):
  """A locally connected layer in each local tower: every position has kernels and biases of its own.

  The attributes are those of `TowerConv`.
  """

  @nn.compact
  def __call__(self, xs: Towers) -> Towers:
    _, height, width, maps = xs[0].shape
    (top, bottom), (left, right) = self.padding
    positions = tuple(
      max(0, layers.pooled_size(side, self.size, self.stride, 'floor'))
      for side in (height + top + bottom, width + left + right)
    )
    fan_in = self.size * self.size * maps
    shape = (len(xs), *positions, fan_in, self.features)
    kernel = self.param('kernel', self.kernel_init, shape, fan_in)
    bias = self.param('bias', self.bias_init, (len(xs), *positions, self.features), fan_in)
    return [
      layers.locally_connected(x, kernel[t], bias[t], self.size, self.stride, self.padding)
      for t, x in enumerate(xs)
    ]
