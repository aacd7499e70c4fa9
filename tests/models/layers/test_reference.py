"""The reference layers agree with TensorFlow operations and NumPy loops, forward and backward."""

import functools

from helpers import relative_error
import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest
import tensorflow as tf

from alexnet_jax.models import layers

ROUNDING = 2e-5  # for float32, relative to the largest entry


def normal(*shape, seed=0, scale=1.0):
  """Returns random float32 numbers."""
  return (np.random.default_rng(seed).normal(0, scale, shape)).astype(np.float32)


def untied(*shape, seed=0):
  """Returns random float32 numbers, no two of which are equal."""
  order = np.random.default_rng(seed).permutation(np.prod(shape))
  return (order.reshape(shape) / np.prod(shape) - 0.5).astype(np.float32)


def assert_same(ours, reference, *arguments, tolerance=ROUNDING):
  """Compares values and the gradients of a randomly weighted sum of them with those of TensorFlow."""
  value, pull = jax.vjp(jax.jit(ours), *map(jnp.asarray, arguments))
  tensors = [tf.constant(x) for x in arguments]
  with tf.GradientTape() as tape:
    tape.watch(tensors)
    expected = reference(*tensors)
  assert relative_error(value, expected) < tolerance
  weights = normal(*value.shape, seed=99)
  gradients = tape.gradient(expected, tensors, tf.constant(weights))
  for actual, gradient in zip(pull(jnp.asarray(weights)), gradients, strict=True):
    assert relative_error(actual, gradient) < tolerance


@pytest.mark.parametrize(
  ('size', 'kernel', 'stride', 'padding'),
  [
    (24, 11, 4, ((0, 3), (0, 3))),  # conv1 of the paper: no padding before, 3 pixels after
    (27, 11, 4, ((0, 0), (0, 0))),  # Caffe
    (24, 11, 4, ((2, 2), (2, 2))),  # torchvision
    (9, 5, 1, ((2, 2), (2, 2))),
    (8, 3, 1, ((1, 1), (1, 1))),
    (10, 3, 2, ((0, 3), (1, 0))),  # height and width are not mixed up
  ],
)
def test_conv_agrees_with_tensorflow(size, kernel, stride, padding):
  def reference(x, w, b):
    pads = [[0, 0], *map(list, padding), [0, 0]]
    return tf.nn.conv2d(x, w, stride, pads) + b

  ours = functools.partial(layers.conv, stride=stride, padding=padding)
  arguments = normal(2, size, size, 3), normal(kernel, kernel, 3, 4, seed=1), normal(4, seed=2)
  assert_same(ours, reference, *arguments)


def test_dense_agrees_with_tensorflow():
  assert_same(layers.dense, tf.matmul, normal(3, 7), normal(7, 5, seed=1))


@pytest.mark.parametrize(
  ('scale', 'k', 'alpha', 'beta'),
  [
    (100, 2, 1e-4, 0.75),  # the paper, with responses as large as those of conv1
    (100, 1, 2e-5, 0.75),  # Caffe
    (1, 2, 0.3, 0.75),  # constants so large that any error shows
    (1, 1, 0.3, 0.5),
  ],
)
@pytest.mark.parametrize('maps', [3, 16])
def test_local_response_norm_agrees_with_tensorflow(scale, k, alpha, beta, maps):
  """In TensorFlow `alpha` multiplies the sum and not the mean. Windows are clipped at both ends."""
  reference = functools.partial(
    tf.nn.local_response_normalization, depth_radius=2, bias=k, alpha=alpha, beta=beta
  )
  ours = functools.partial(layers.local_response_norm, size=5, k=k, alpha=alpha, beta=beta)
  assert_same(ours, reference, normal(2, 3, 3, maps, scale=scale))


@pytest.mark.parametrize('size', [1, 2, 4, 5, 9])
def test_the_window_of_local_response_norm(size):
  """The window of map i starts at i - size//2, for even sizes too (docs/FACTS.md section 1.3)."""
  x = normal(2, 8)
  expected = np.empty_like(x)
  for i in range(8):
    first = i - size // 2
    window = x[:, max(0, first) : max(0, first + size)]
    expected[:, i] = x[:, i] / (1.5 + 0.3 * (window**2).sum(-1)) ** 0.75
  actual = layers.local_response_norm(jnp.asarray(x), size=size, k=1.5, alpha=0.3, beta=0.75)
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


def reference_map_norm(x, size, k, alpha, beta):
  """Computes `map_response_norm` with loops over pixels, in float64."""
  x = x.astype(np.float64)
  out = np.empty_like(x)
  for i, j in np.ndindex(*x.shape[1:3]):
    top, left = i - size // 2, j - size // 2
    window = x[:, max(0, top) : max(0, top + size), max(0, left) : max(0, left + size)]
    out[:, i, j] = x[:, i, j] / (k + alpha * (window**2).sum((1, 2))) ** beta
  return out


@pytest.mark.parametrize('size', [3, 4, 5])
def test_map_response_norm_agrees_with_loops(size):
  """Windows are clipped at the border, and each map is normalised by itself."""
  x = normal(2, 6, 7, 3)
  constants = {'size': size, 'k': 1.0, 'alpha': 0.2, 'beta': 0.75}
  actual = layers.map_response_norm(jnp.asarray(x), **constants)
  np.testing.assert_allclose(actual, reference_map_norm(x, **constants), rtol=1e-5)


def test_the_gradient_of_map_response_norm():
  ours = functools.partial(layers.map_response_norm, size=5, k=1.0, alpha=0.2, beta=0.75)
  check_grads(jax.jit(ours), (normal(1, 6, 6, 2),), order=1, modes=['rev'], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
  ('size', 'window', 'stride', 'ceil', 'floor'),
  [
    (55, 3, 2, 27, 27),
    (27, 3, 2, 13, 13),
    (13, 3, 2, 6, 6),
    (32, 3, 2, 16, 15),  # CIFAR-10: sides 32, 16, 8, 4 or 32, 15, 7, 3 (FACTS section 1.2)
    (16, 3, 2, 8, 7),
    (8, 3, 2, 4, 3),
    (55, 2, 2, 28, 27),  # net 147, the network with 2x2 pooling (FACTS section 1.2)
    (11, 2, 2, 6, 5),
    (32, 1, 2, 16, 16),  # a window at pixel 32 would lie outside
    (10, 2, 5, 2, 2),
  ],
)
def test_pooled_size(size, window, stride, ceil, floor):
  assert layers.pooled_size(size, window, stride, 'ceil') == ceil
  assert layers.pooled_size(size, window, stride, 'floor') == floor


def reference_max_pool(x, weights, window, stride, rounding):
  """Computes max pooling with loops over clipped windows.

  The gradient goes to the first maximum in the order of rows.
  """
  side = {'ceil': np.ceil, 'floor': np.floor}[rounding]
  height, width = (1 + int(side((n - window) / stride)) for n in x.shape[1:3])
  value = np.empty((len(x), height, width, x.shape[3]), x.dtype)
  gradient = np.zeros_like(x)
  for b, i, j, c in np.ndindex(*value.shape):
    corner = x[b, i * stride : i * stride + window, j * stride : j * stride + window, c]
    value[b, i, j, c] = corner.max()
    row, column = np.unravel_index(corner.argmax(), corner.shape)
    gradient[b, i * stride + row, j * stride + column, c] += weights[b, i, j, c]
  return value, gradient


@pytest.mark.parametrize('rounding', ['ceil', 'floor'])
@pytest.mark.parametrize(('size', 'window'), [(9, 3), (8, 3), (7, 2)])
def test_max_pool_agrees_with_loops(rounding, size, window):
  """All values are negative, so that padding with zeros would show. Ties go to the first pixel."""
  values = untied(2, size, size, 3) - 1
  tied = np.round(2 * values)
  assert len(np.unique(tied)) < 5
  ours = functools.partial(layers.max_pool, window=window, stride=2, rounding=rounding)

  @jax.jit
  def both(x, weights):
    value, pull = jax.vjp(ours, x)
    return value, pull(weights)[0]

  weights = normal(*jax.eval_shape(ours, values).shape)
  for x in (values, tied):
    expected, gradient = reference_max_pool(x, weights, window, 2, rounding)
    value, ours_gradient = both(x, weights)
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_allclose(ours_gradient, gradient, rtol=1e-5, atol=1e-6)


def row_keys(rows, seed=0):
  """Returns one random key for each of `rows`."""
  return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.asarray(rows))


@pytest.mark.parametrize('rate', [0.5, 0.2])
def test_dropout_in_training_and_at_test_time(rate):
  """Plain dropout scales by 1 - rate at test time, and inverted dropout by 1 / (1 - rate) in training."""
  x = jnp.asarray(untied(64, 1000) + 1)
  paper = layers.dropout(x, row_keys(range(64)), rate=rate, inverted=False)
  mask = paper != 0
  # The tolerance is four standard deviations of the share of units that are kept.
  assert abs(mask.mean() - (1 - rate)) < 4 * np.sqrt(rate * (1 - rate) / x.size)
  np.testing.assert_array_equal(paper, np.where(mask, x, 0))
  inverted = layers.dropout(x, row_keys(range(64)), rate=rate, inverted=True)
  np.testing.assert_allclose(inverted, np.where(mask, x, 0) / (1 - rate), rtol=1e-6)
  at_test = layers.dropout(x, None, rate=rate, inverted=False)
  np.testing.assert_allclose(at_test, x * (1 - rate), rtol=1e-6)
  np.testing.assert_array_equal(layers.dropout(x, None, rate=rate, inverted=True), x)


@pytest.mark.parametrize('inverted', [False, True])
def test_dropout_keeps_the_expectation(inverted):
  """For both forms the output at test time equals the mean output in training."""
  x = jnp.asarray(normal(1, 50))
  repeated = jnp.broadcast_to(x, (20_000, 50))
  trained = layers.dropout(repeated, row_keys(range(20_000)), rate=0.3, inverted=inverted)
  expected = layers.dropout(x, None, rate=0.3, inverted=inverted)
  assert relative_error(trained.mean(0, keepdims=True), expected) < 0.03


def test_a_dropout_mask_depends_only_on_the_key_of_its_row():
  """It depends neither on the batch nor on the position of the row in the batch."""
  drop = functools.partial(layers.dropout, rate=0.5, inverted=False)
  x = jnp.asarray(untied(8, 100) + 1)
  whole = drop(x, row_keys(range(8)))
  some = np.array([6, 2])
  np.testing.assert_array_equal(drop(x[some], row_keys(some)), whole[some])
  masks = {tuple(row) for row in np.asarray(whole != 0).tolist()}
  assert len(masks) == 8
  assert not np.array_equal(drop(x, row_keys(range(8), seed=1)), whole)


def test_dropped_units_have_no_gradient():
  x = jnp.asarray(untied(4, 100) + 1)
  drop = functools.partial(layers.dropout, keys=row_keys(range(4)), rate=0.5, inverted=True)
  gradient = jax.grad(lambda x: drop(x).sum())(x)
  np.testing.assert_array_equal(gradient, np.where(drop(x) != 0, 2.0, 0.0))


BFLOAT16 = {
  'conv': lambda x: layers.conv(
    x, jnp.asarray(normal(3, 3, 4, 5)), jnp.ones(5), 1, ((1, 1), (1, 1))
  ),
  'dense': lambda x: layers.dense(x.reshape(2, -1), jnp.asarray(normal(144, 5))),
  'lrn': lambda x: layers.local_response_norm(x, size=5, k=1.0, alpha=0.3, beta=0.75),
  'map_norm': lambda x: layers.map_response_norm(x, size=5, k=1.0, alpha=0.3, beta=0.75),
  'max_pool': lambda x: layers.max_pool(x, window=3, stride=2, rounding='ceil'),
  'dropout': lambda x: layers.dropout(x, row_keys(range(2)), rate=0.5, inverted=True),
  'dropout_test': lambda x: layers.dropout(x, None, rate=0.5, inverted=False),
}


@pytest.mark.parametrize('layer', BFLOAT16)
def test_bfloat16_is_kept_and_close_to_float32(layer):
  """The output for a bfloat16 input has this type, and is close to the output in float32."""
  x = jnp.asarray(normal(2, 6, 6, 4))
  half = BFLOAT16[layer](x.astype(jnp.bfloat16))
  assert half.dtype == jnp.bfloat16
  assert relative_error(half, BFLOAT16[layer](x)) < 0.02  # bfloat16 has 8 bits of mantissa
