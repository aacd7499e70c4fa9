"""The CPU layers agree with the reference layers, forward and backward, in float32 and bfloat16."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.models import layers
from alexnet_jax.models.layers import cpu, cpu_conv, gpu, reference, winograd
from alexnet_jax.models.spec import NO_PADDING

TOLERANCE = {'float32': 2e-5, 'bfloat16': 2e-2}


def normal(*shape, seed=0, dtype='float32'):
  values = np.random.default_rng(seed).standard_normal(shape, np.float32)
  return jnp.asarray(values, dtype)


def assert_alike(name, constants, *arrays):
  """Compares the value, also that of the differentiated layer, and the gradients of all arguments.

  Errors are relative to the largest entry of each.
  """
  dtype = str(arrays[0].dtype)
  results = []
  for module in (reference, cpu):
    layer = functools.partial(getattr(module, name), **constants)
    shape = jax.eval_shape(layer, *arrays)
    assert shape.dtype == arrays[0].dtype

    def run(g, *a, layer=layer):
      y, pull = jax.vjp(layer, *a)
      return layer(*a), y, *pull(g)

    results.append(jax.jit(run)(normal(*shape.shape, seed=9, dtype=dtype), *arrays))
  for expected, actual in zip(*results, strict=True):
    expected, actual = np.asarray(expected, np.float32), np.asarray(actual, np.float32)
    assert actual.shape == expected.shape and np.abs(expected).max() > 0
    assert np.abs(actual - expected).max() <= TOLERANCE[dtype] * np.abs(expected).max()


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize(
  ('images', 'size', 'channels', 'kernel', 'stride', 'padding'),
  [
    (3, 31, 3, 11, 4, ((0, 3), (0, 3))),  # the paper's conv1, smaller
    (2, 35, 3, 11, 4, ((0, 0), (0, 0))),  # Caffe's conv1
    # In torchvision's conv1, no window covers the last rows.
    (2, 32, 3, 11, 4, ((2, 2), (2, 2))),
    (4, 12, 3, 5, 1, ((2, 2), (2, 2))),  # conv1 of the CIFAR-10 network
    (2, 12, 1, 5, 1, ((2, 2), (2, 2))),  # conv1 of LeNet-5
    (2, 11, 3, 4, 1, ((1, 2), (2, 1))),  # an odd number of windows, and an even kernel
    (3, 8, 3, 3, 1, ((0, 0), (1, 0))),
    (2, 9, 3, 2, 3, ((0, 0), (0, 0))),  # windows with gaps between them
    (3, 9, 6, 3, 1, ((1, 1), (1, 1))),  # conv3 to conv5
    (2, 9, 6, 3, 1, ((1, 0), (0, 2))),
    (cpu_conv.PIECE + 3, 9, 6, 3, 2, ((1, 1), (1, 1))),  # more images than one piece
  ],
)
def test_conv_agrees_with_the_reference(dtype, images, size, channels, kernel, stride, padding):
  x = normal(images, size, size, channels, dtype=dtype)
  weights = normal(kernel, kernel, channels, 8, seed=1)
  constants = {'stride': stride, 'padding': padding}
  assert_alike('conv', constants, x, weights, normal(8, seed=2))


@pytest.mark.parametrize('images', [6, 7])
def test_squares_of_outputs_are_computed_in_chunks(images, monkeypatch):
  """The size of the chunks may or may not divide the batch."""
  monkeypatch.setattr(winograd, 'CHUNK_BYTES', 20_000)
  padding = ((2, 2), (2, 2))
  x, weights = normal(images, 7, 7, 3), normal(5, 5, 3, 8, seed=1)
  assert 1 < cpu_conv._images_at_a_time(x, weights, padding) < images
  assert_alike('conv', {'stride': 1, 'padding': padding}, x, weights, normal(8, seed=2))


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('size', [4, 5])
@pytest.mark.parametrize('name', ['local_response_norm', 'map_response_norm'])
def test_response_norms_agree_with_the_reference(dtype, name, size):
  """The constants are so large that any error shows. An even window is not symmetric."""
  x = normal(2, 6, 7, 9, dtype=dtype)
  for k, beta in ((2.0, 0.75), (1.0, 0.5)):
    assert_alike(name, {'size': size, 'k': k, 'alpha': 0.3, 'beta': beta}, x)


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize(('window', 'stride'), [(3, 2), (2, 2), (3, 1), (3, 3), (5, 2)])
@pytest.mark.parametrize('rounding', ['ceil', 'floor'])
def test_max_pool_agrees_with_the_reference(dtype, window, stride, rounding):
  """Some windows extend over the border, some leave pixels uncovered, and some overlap."""
  x = normal(2, 12, 13, 3, dtype=dtype)
  assert_alike('max_pool', {'window': window, 'stride': stride, 'rounding': rounding}, x)


def test_max_pool_with_windows_of_more_pixels_than_an_int8_index():
  x = normal(1, 13, 13, 2)
  assert_alike('max_pool', {'window': 12, 'stride': 1, 'rounding': 'ceil'}, x)


def test_max_pool_sends_the_gradient_of_ties_to_the_same_pixel():
  """Every window contains equal pixels."""
  x = jnp.asarray(np.random.default_rng(0).integers(0, 3, (2, 13, 13, 4)), jnp.float32)
  assert_alike('max_pool', {'window': 3, 'stride': 2, 'rounding': 'ceil'}, x)


def test_nan_is_passed_on():
  x = normal(1, 5, 5, 5).at[0, 1, 1, 2].set(jnp.nan)
  pooled = cpu.max_pool(x, window=3, stride=2, rounding='ceil')
  normed = cpu.local_response_norm(x, size=5, k=2.0, alpha=1e-4, beta=0.75)
  assert np.isnan(pooled).sum() == 1 and np.isnan(normed).sum() == 5


def test_the_table_names_layers_that_both_modules_have():
  for backend, names in layers.FAST.items():
    for name in names:
      fast = importlib.import_module(f'alexnet_jax.models.layers.{backend}')
      assert callable(getattr(fast, name)) and callable(getattr(reference, name)), backend


def test_the_table_selects_cpu_layers_on_a_cpu(monkeypatch):
  """On a CPU the fast layer runs, unless the table does not name it."""
  x = normal(1, 5, 5, 2)

  def jaxpr():
    return str(jax.make_jaxpr(lambda x: layers.max_pool(x, window=3, stride=2, rounding='ceil'))(x))

  assert 'reduce_window' not in jaxpr()
  monkeypatch.setitem(layers.FAST, jax.default_backend(), ())
  assert 'reduce_window' in jaxpr()


BIASED = {
  'reference': lambda x, bias: reference.conv(x, jnp.ones((1, 1, 3, 4)), bias, 1, NO_PADDING),
  'cpu': lambda x, bias: cpu.conv(x, jnp.ones((1, 1, 3, 4)), bias, 1, NO_PADDING),
  'towers': lambda x, bias: cpu.tower_convs(
    [x, x], jnp.ones((2, 1, 1, 3, 4)), jnp.stack([bias, bias]), 1, NO_PADDING
  )[0],
  'gpu': lambda x, bias: gpu.conv(x, jnp.ones((1, 1, 3, 4)), bias, 1, NO_PADDING, 'blocks'),
}


@pytest.mark.parametrize('layer', BIASED)
def test_the_gradient_of_a_bias_is_summed_in_float32(layer):
  """It has the accuracy of float32 although the maps are bfloat16."""
  x = normal(4, 32, 32, 3, dtype='bfloat16')
  # All entries are positive, so that no sum is near zero.
  g = 1 + normal(4, 32, 32, 4, dtype='bfloat16') ** 2
  gradient = jax.vjp(lambda bias: BIASED[layer](x, bias), jnp.ones(4))[1](g)[0]
  np.testing.assert_allclose(gradient, np.asarray(g, np.float64).sum((0, 1, 2)), rtol=1e-5)
