"""Initial weights and biases (docs/FACTS.md, section 1.5).

An initializer is called as `initializer(key, shape, fan_in)` and returns a float32 array of that shape. The
fan-in is an argument because a tower axis leads the shape of every kernel, so the shape does not give it.
"""

from collections.abc import Callable
import math

import jax
import jax.numpy as jnp
from ml_collections import FrozenConfigDict

Array = jax.Array
Initializer = Callable[[Array, tuple[int, ...], int], Array]


def for_layer(init: str, layer: FrozenConfigDict) -> tuple[Initializer, Initializer]:
  """Returns the initializers of a layer's kernel and of its bias.

  Args:
    init: `config.model.init`. 'torch' is PyTorch's default for both; 'normal' draws the kernel from
      N(0, `layer.std`^2) and sets the bias to `layer.bias`, as the paper does (section 5).
    layer: the description of the layer, from `config.model`.
  """
  if init == 'torch':
    return torch_uniform, torch_uniform
  return normal(layer.std), constant(layer.bias)


def normal(std: float) -> Initializer:
  """Returns an initializer that draws from a normal distribution with standard deviation `std`."""

  def draw(key: Array, shape: tuple[int, ...], fan_in: int) -> Array:
    del fan_in
    # A flat draw gives the same numbers, and XLA compiles it several times faster on CPUs.
    return std * jax.random.normal(key, (math.prod(shape),)).reshape(shape)

  return draw


def constant(value: float) -> Initializer:
  """Returns an initializer that sets every element to `value`."""

  def fill(key: Array, shape: tuple[int, ...], fan_in: int) -> Array:
    del key, fan_in
    return jnp.full(shape, value, jnp.float32)

  return fill


def torch_uniform(key: Array, shape: tuple[int, ...], fan_in: int) -> Array:
  """Draws from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for kernels and biases."""
  flat = jax.random.uniform(key, (math.prod(shape),), jnp.float32, -1, 1)
  return flat.reshape(shape) / math.sqrt(fan_in)
