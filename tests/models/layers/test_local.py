"""Locally connected layers and average pooling agree with NumPy."""

from helpers import relative_error
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.models import layers

ROUNDING = 2e-6


@pytest.mark.parametrize(
  ('size', 'stride', 'padding'),
  [(3, 1, ((1, 1), (1, 1))), (3, 2, ((0, 1), (1, 0))), (5, 3, ((2, 2), (2, 1)))],
)
def test_locally_connected_layers(size, stride, padding):
  """NumPy computes each position by itself. With equal kernels everywhere the layer is a convolution."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 7, 9, 3)).astype(np.float32)
  padded = np.pad(x, ((0, 0), *padding, (0, 0)))
  sides = [(n - size) // stride + 1 for n in padded.shape[1:3]]
  kernel = rng.normal(size=(*sides, size * size * 3, 4)).astype(np.float32)
  bias = rng.normal(size=(*sides, 4)).astype(np.float32)
  expected = np.zeros((2, *sides, 4))
  for i, j in np.ndindex(*sides):
    window = padded[:, i * stride : i * stride + size, j * stride : j * stride + size]
    expected[:, i, j] = window.reshape(2, -1) @ kernel[i, j] + bias[i, j]
  ours = layers.locally_connected(x, kernel, bias, size, stride, padding)
  assert relative_error(ours, expected) < ROUNDING
  shared = np.broadcast_to(kernel[:1, :1], kernel.shape)
  convolved = layers.conv(
    jnp.asarray(x), kernel[0, 0].reshape(size, size, 3, 4), np.zeros(4), stride, padding
  )
  ours = layers.locally_connected(x, shared, np.zeros_like(bias), size, stride, padding)
  assert relative_error(ours, convolved) < ROUNDING


@pytest.mark.parametrize('rounding', ['ceil', 'floor'])
@pytest.mark.parametrize(
  ('size', 'window', 'stride'), [(32, 3, 2), (8, 3, 2), (7, 2, 2), (9, 4, 3), (8, 1, 2)]
)
def test_average_pooling(size, window, stride, rounding):
  """A window at the border is averaged over the pixels inside the image, forward and backward."""
  x = np.random.default_rng(1).normal(size=(2, size, size + 2, 3)).astype(np.float32)
  sides = [layers.pooled_size(n, window, stride, rounding) for n in x.shape[1:3]]
  expected, gradient = np.zeros((2, *sides, 3)), np.zeros(x.shape)
  for i, j in np.ndindex(*sides):
    window_slice = np.s_[:, i * stride : i * stride + window, j * stride : j * stride + window]
    expected[:, i, j] = x[window_slice].mean((1, 2))
    gradient[window_slice] += 1 / np.prod(x[window_slice].shape[1:3])

  @jax.jit
  def both(x):
    ours, pull = jax.vjp(
      lambda x: layers.avg_pool(x, window=window, stride=stride, rounding=rounding), x
    )
    return ours, pull(jnp.ones_like(ours))[0]

  ours, ours_gradient = both(x)
  assert relative_error(ours, expected) < ROUNDING
  assert relative_error(ours_gradient, gradient) < ROUNDING
