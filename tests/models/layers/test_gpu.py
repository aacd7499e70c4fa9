"""The GPU layers agree with the reference layers, forward and backward, in float32 and bfloat16.

They run on the CPU, and Pallas runs in its interpreter. `python -m benchmarks.gpu --stages=b` checks the
layers on a GPU.
"""

import functools

import jax
import jax.export
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from ml_collections import FrozenConfigDict
import numpy as np
import pytest

from alexnet_jax import models
from alexnet_jax.config import recipes
from alexnet_jax.models import layers
from alexnet_jax.models.layers import gpu, reference

TOLERANCE = {'float32': 3e-6, 'bfloat16': 2e-2}
TRITON = jax.export.DisabledSafetyCheck.custom_call('__gpu$xla.gpu.triton')
POOL = {'window': 3, 'stride': 2, 'rounding': 'ceil'}


def normal(*shape, seed=0, dtype='float32'):
  values = np.random.default_rng(seed).standard_normal(shape, np.float32)
  return jnp.asarray(values, dtype)


@functools.cache
def compiled(layer):
  """Returns a compiled function: the value, that of the differentiated layer, and all gradients."""

  def run(g, *arrays):
    y, pull = jax.vjp(layer, *arrays)
    return layer(*arrays), y, *pull(g)

  return jax.jit(run)


def assert_alike(plain, fast, *arrays):
  """Compares the values and the gradients of all arguments, relative to the reference's largest entry."""
  dtype = str(arrays[0].dtype)
  results = []
  for layer in (plain, fast):
    shape = jax.eval_shape(layer, *arrays)
    assert shape.dtype == arrays[0].dtype
    results.append(compiled(layer)(normal(*shape.shape, seed=9, dtype=dtype), *arrays))
  for expected, actual in zip(*results, strict=True):
    assert actual.dtype == expected.dtype
    expected, actual = np.asarray(expected, np.float32), np.asarray(actual, np.float32)
    assert actual.shape == expected.shape and np.abs(expected).max() > 0
    assert np.abs(actual - expected).max() <= TOLERANCE[dtype] * np.abs(expected).max()


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('method', gpu.NORM_METHODS)
@pytest.mark.parametrize('size', [4, 5])
@pytest.mark.parametrize('shape', [(2, 6, 7, 9), (3, 5, 5, 48)])
def test_local_response_norm_agrees_with_the_reference(dtype, method, size, shape):
  """The constants are so large that a wrong window shows. An even window is not symmetric."""
  x = normal(*shape, dtype=dtype)
  for k, beta in ((2.0, 0.75), (1.0, 0.5)):
    constants = {'size': size, 'k': k, 'alpha': 0.3, 'beta': beta}
    assert_alike(
      functools.partial(reference.local_response_norm, **constants),
      functools.partial(gpu.local_response_norm, method=method, **constants),
      x,
    )


def test_pallas_accepts_more_rows_than_a_block():
  x = normal(3, 17, 13, 16)
  constants = {'size': 5, 'k': 2.0, 'alpha': 0.3, 'beta': 0.75}
  assert x.size > 2 * gpu._BLOCK_ELEMENTS and x.size % gpu._BLOCK_ELEMENTS
  assert_alike(
    functools.partial(reference.local_response_norm, **constants),
    functools.partial(gpu.local_response_norm, method='pallas', **constants),
    x,
  )


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('size', [4, 5])
def test_map_response_norm_agrees_with_the_reference(dtype, size):
  constants = {'size': size, 'k': 1.0, 'alpha': 0.3, 'beta': 0.75}
  assert_alike(
    functools.partial(reference.map_response_norm, **constants),
    functools.partial(gpu.map_response_norm, **constants),
    normal(2, 6, 7, 9, dtype=dtype),
  )


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize(('window', 'stride'), [(3, 2), (2, 2), (3, 1), (3, 3), (5, 2)])
@pytest.mark.parametrize('rounding', ['ceil', 'floor'])
def test_max_pool_agrees_with_the_reference(dtype, window, stride, rounding):
  """Some windows extend over the border, leave pixels uncovered, overlap or have gaps between them.

  If maxima are equal, the gradient goes to the first one.
  """
  x = normal(2, 12, 13, 3, dtype=dtype)
  tied = jnp.asarray(np.random.default_rng(0).integers(0, 3, x.shape), dtype)
  constants = {'window': window, 'stride': stride, 'rounding': rounding}
  plain = functools.partial(reference.max_pool, **constants)
  fast = functools.partial(gpu.max_pool, **constants)
  for maps in (x, tied):
    assert_alike(plain, fast, maps)


def test_the_gradient_of_max_pool_uses_no_scatter():
  def text(layer):
    def total(x):
      return layer(x, **POOL).sum()

    return str(jax.make_jaxpr(jax.grad(total))(normal(1, 9, 9, 2)))

  assert 'select_and_scatter' in text(reference.max_pool)
  assert 'scatter' not in text(gpu.max_pool)


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('method', gpu.CONV_METHODS[1:])  # the first one is the reference
@pytest.mark.parametrize(
  ('size', 'kernel', 'stride', 'padding'),
  [
    (31, 11, 4, ((0, 3), (0, 3))),  # the paper's conv1, smaller
    (35, 11, 4, ((0, 0), (0, 0))),  # Caffe's conv1
    (32, 11, 4, ((2, 2), (2, 2))),  # torchvision's conv1, where no window covers the last rows
    (9, 3, 1, ((1, 0), (0, 2))),
  ],
)
def test_conv_agrees_with_the_reference(dtype, method, size, kernel, stride, padding):
  layer = functools.partial(gpu.conv, method=method, stride=stride, padding=padding)
  plain = functools.partial(reference.conv, stride=stride, padding=padding)
  arrays = normal(2, size, size, 3, dtype=dtype), normal(kernel, kernel, 3, 8, seed=1)
  assert_alike(plain, layer, *arrays, normal(8, seed=2))


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('method', gpu.TOWER_METHODS[1:])  # the first one is the reference
@pytest.mark.parametrize('shared', [False, True])
def test_tower_conv_agrees_with_the_reference(dtype, method, shared):
  """The towers have maps of their own, or share their maps."""
  padding = ((1, 1), (1, 1))

  def layer(convolve, x, kernel, bias):
    xs = [x[0], x[0]] if shared else list(x)
    return jnp.stack(convolve(xs, kernel, bias))

  def separate(xs, kernel, bias):
    return [reference.conv(x, kernel[t], bias[t], 1, padding) for t, x in enumerate(xs)]

  fast = functools.partial(gpu.tower_convs, stride=1, padding=padding, method=method)
  assert_alike(
    functools.partial(layer, separate),
    functools.partial(layer, fast),
    normal(2, 2, 8, 8, 6, dtype=dtype),
    normal(2, 3, 3, 6, 4, seed=1),
    normal(2, 4, seed=2),
  )


@pytest.mark.parametrize('shared', [False, True])
def test_joined_towers_are_one_convolution(shared):
  x, kernel, bias = normal(1, 8, 8, 6), normal(2, 3, 3, 6, 4), normal(2, 4)
  xs = [x, x] if shared else [x, x + 1]

  def count(method):
    convolve = functools.partial(gpu.tower_convs, xs, kernel, bias, 1, ((1, 1), (1, 1)), method)
    return str(jax.make_jaxpr(convolve)()).count('conv_general_dilated')

  assert count('apart') == 2 and count('grouped') == count('joined') == 1


def test_unknown_methods_are_refused():
  x, kernel = normal(1, 8, 8, 6), normal(3, 3, 6, 4)
  with pytest.raises(ValueError, match="no method 'triton': choose one of fused, band, pallas"):
    gpu.local_response_norm(x, size=5, k=2.0, alpha=1e-4, beta=0.75, method='triton')
  with pytest.raises(ValueError, match='choose one of plain'):
    gpu.conv(x, kernel, normal(4), 1, ((1, 1), (1, 1)), method='fast')
  with pytest.raises(ValueError, match='choose one of apart'):
    gpu.tower_convs([x], kernel[None], normal(1, 4), 1, ((1, 1), (1, 1)), method='fast')


def test_nan_is_passed_on():
  x = normal(1, 5, 5, 5).at[0, 1, 1, 2].set(jnp.nan)
  assert np.isnan(gpu.max_pool(x, **POOL)).sum() == 1
  _, pull = jax.vjp(functools.partial(gpu.max_pool, **POOL), x)
  assert np.isfinite(np.asarray(pull(jnp.ones((1, 2, 2, 5)))[0])).all()


@pytest.mark.parametrize('method', gpu.NORM_METHODS)
def test_layers_run_on_a_mesh(method):
  """They run under `shard_map` with the check of replication, as in every training step.

  The interpreter of Pallas fails this check in code of its own. The kernels for a GPU pass it, as the next
  test shows.
  """
  mesh = jax.make_mesh((2,), ('data',), (AxisType.Auto,), devices=jax.devices()[:2])
  constants = {'size': 5, 'k': 2.0, 'alpha': 0.3, 'beta': 0.75}

  def layer(norm, pool, x):
    return pool(norm(x, **constants), **POOL)

  def gradient(function):
    def total(x):
      return (function(x) ** 2).sum()

    return jax.grad(total)

  norm = functools.partial(gpu.local_response_norm, method=method)
  fast = gradient(functools.partial(layer, norm, gpu.max_pool))
  plain = gradient(functools.partial(layer, reference.local_response_norm, reference.max_pool))
  x = normal(4, 9, 9, 8)
  sharded = jax.shard_map(
    fast, mesh=mesh, in_specs=P('data'), out_specs=P('data'), check_vma=method != 'pallas'
  )
  np.testing.assert_allclose(jax.jit(sharded)(x), plain(x), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize('dtype', TOLERANCE)
def test_pallas_lowers_for_cuda(dtype):
  """Pallas lowers the kernels to Triton programs without a GPU. Only a GPU can compile and run them."""
  norm = functools.partial(
    gpu.local_response_norm, size=5, k=2.0, alpha=1e-4, beta=0.75, method='pallas'
  )
  mesh = jax.make_mesh((2,), ('data',), (AxisType.Auto,), devices=jax.devices()[:2])

  def both(x, g):
    y, pull = jax.vjp(norm, x)
    return y, *pull(g)

  both = jax.shard_map(both, mesh=mesh, in_specs=P('data'), out_specs=P('data'))
  x = jax.ShapeDtypeStruct((2, 27, 27, 48), dtype)
  exported = jax.export.export(jax.jit(both), platforms=['cuda'], disabled_checks=[TRITON])(x, x)
  text = exported.mlir_module()
  assert text.count('xla.gpu.triton') >= 2 and 'norm_gradient_kernel' in text


def test_no_gpu_layer_is_in_use_without_a_measured_gain():
  """Max pooling is in use for its deterministic gradient."""
  assert layers.FAST['gpu'] == ('max_pool',)


def test_the_table_selects_gpu_layers_on_a_gpu(monkeypatch):
  """The test replaces only the name of the backend, and compiles nothing."""

  def jaxpr():
    def total(x):
      return layers.max_pool(x, **POOL).sum()

    return str(jax.make_jaxpr(jax.grad(total))(normal(1, 9, 9, 2)))

  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert 'scatter' not in jaxpr() and 'pad' in jaxpr()
  monkeypatch.setitem(layers.FAST, 'gpu', ())
  assert 'select_and_scatter' in jaxpr()


@pytest.mark.parametrize('recipe', ['paper', 'torchvision'])
def test_a_training_step_on_a_gpu_has_no_select_and_scatter(monkeypatch, recipe):
  """XLA computes it on a GPU with atomic additions, whose order changes between runs."""
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  model = recipes.get(recipe).model
  model.width = 1 / 16
  module = models.create(FrozenConfigDict(model))
  images = jax.ShapeDtypeStruct((2, model.input_size, model.input_size, 3), 'float32')
  params = jax.eval_shape(module.init, jax.random.key(0), images)['params']

  def total(params, images):
    return module.apply({'params': params}, images).sum()

  text = str(jax.make_jaxpr(jax.grad(total))(params, images))
  assert 'conv_general_dilated' in text and 'scatter' not in text
