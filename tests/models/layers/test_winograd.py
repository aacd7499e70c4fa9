"""Winograd's convolutions: exact transforms, and agreement with the reference for shapes of all networks."""

from fractions import Fraction
import functools
import itertools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from alexnet_jax.models.layers import cpu, reference, winograd

# Relative to the largest entry. docs/performance.md promises the one for float32. The largest observed errors
# are 7e-6 in convolutions and their gradients, and 1.2e-5 in the gradient of a bias, which is a long sum.
TOLERANCE = {'float32': 2e-5, 'bfloat16': 2e-2}
SIZES = [(m, r) for r, sides in winograd.TILES.items() for m in sides]


def normal(*shape, seed=0, dtype='float32'):
  values = np.random.default_rng(seed).standard_normal(shape, np.float32)
  return jnp.asarray(values, dtype)


def assert_close(actual, expected, dtype='float32'):
  actual, expected = np.asarray(actual, np.float32), np.asarray(expected, np.float32)
  assert actual.shape == expected.shape and np.abs(expected).max() > 0
  assert np.abs(actual - expected).max() <= TOLERANCE[dtype] * np.abs(expected).max()


@pytest.mark.parametrize(('m', 'r'), SIZES)
def test_the_transforms_are_exact(m, r):
  """In rational arithmetic, A^T ((G k) * (B^T d)) equals the correlation of the data d with the kernel k."""
  output, kernel, data = winograd.exact_transforms(m, r, winograd.POINTS[m + r - 1])
  rng = np.random.default_rng(m + r)
  d = [Fraction(int(x)) for x in rng.integers(-99, 99, m + r - 1)]
  k = [Fraction(int(x)) for x in rng.integers(-99, 99, r)]

  def times(rows, v):
    return [sum(a * b for a, b in zip(row, v, strict=True)) for row in rows]

  products = [a * b for a, b in zip(times(kernel, k), times(data, d), strict=True)]
  assert times(output, products) == [sum(d[i + j] * k[j] for j in range(r)) for i in range(m)]


@pytest.mark.parametrize(('m', 'r'), SIZES)
def test_the_float32_matrices_equal_the_exact_fractions(m, r):
  exact = winograd.exact_transforms(m, r, winograd.POINTS[m + r - 1])
  for rows, matrix in zip(exact, winograd.transforms(m, r), strict=True):
    assert matrix.dtype == np.float32
    np.testing.assert_allclose(matrix, [[float(x) for x in row] for row in rows], rtol=1e-7)


@pytest.mark.parametrize(('m', 'r'), SIZES)
def test_adjoint_transforms(m, r):
  """For each transform T and its adjoint T*, <T x, y> equals <x, T* y>. The sides of the plan are unequal."""
  p = winograd.Plan(2, (9, 8), (1, 0), (9 + 2 - r, 8 + 1 - r), m, r)
  pairs = [
    (winograd.data_in, winograd.data_in_adjoint, normal(2, 9, 8, 3)),
    (winograd.kernel_in, winograd.kernel_in_adjoint, normal(r, r, 3, 4)),
    (winograd.output, winograd.output_adjoint, normal(p.a**2, 2 * p.tiles[0] * p.tiles[1], 3)),
  ]
  for transform, adjoint, x in pairs:
    image = jax.jit(transform, static_argnums=0)(p, x)
    y = normal(*image.shape, seed=1)
    back = jax.jit(adjoint, static_argnums=0)(p, y)
    assert float(jnp.vdot(image, y)) == pytest.approx(float(jnp.vdot(x, back)), rel=1e-4, abs=1e-2)


def both(layer, x, kernel, g, padding):
  y, pull = jax.vjp(lambda x, k: layer(x, k, jnp.zeros(k.shape[-1]), 1, padding), x, kernel)
  return y, *pull(g)


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize(
  ('shape', 'r', 'features', 'padding'),
  [
    ((3, 13, 13, 8), 3, 6, ((1, 1), (1, 1))),  # conv3 to conv5: tiles of 5
    ((2, 27, 27, 6), 5, 9, ((2, 2), (2, 2))),  # conv2: tiles of 4
    ((2, 16, 12, 5), 5, 5, ((2, 2), (0, 1))),  # different sides and paddings
    ((1, 6, 6, 8), 3, 8, ((1, 1), (1, 1))),  # conv6
    ((2, 4, 3, 5), 3, 5, ((0, 0), (0, 0))),  # an output of two pixels
    ((5, 8, 8, 5), 5, 7, ((2, 2), (2, 2))),  # CIFAR-10's conv3
  ],
)
def test_conv_agrees_with_the_reference(dtype, shape, r, features, padding):
  x, kernel = normal(*shape, dtype=dtype), normal(r, r, shape[-1], features, seed=1)
  assert winograd.plan(shape, r, padding) or shape[1] < 5
  layer = functools.partial(reference.conv, stride=1, padding=padding)
  y = jax.eval_shape(layer, x, kernel, jnp.zeros(features))
  g = normal(*y.shape, seed=2, dtype=dtype)

  def run(layer):
    return jax.jit(functools.partial(both, layer, padding=padding))(x, kernel, g)

  for actual, expected in zip(run(cpu.conv), run(reference.conv), strict=True):
    assert actual.dtype == expected.dtype
    assert_close(actual, expected, dtype)


@pytest.mark.parametrize('images', [6, 7])
def test_images_are_processed_in_chunks(images, monkeypatch):
  """The size of the chunks may or may not divide the batch."""
  monkeypatch.setattr(winograd, 'CHUNK_BYTES', 2**14)
  x, kernel = normal(images, 9, 9, 6), normal(3, 3, 6, 2, seed=1)
  p = winograd.plan(x.shape, 3, ((1, 1), (1, 1)))
  assert p is not None and winograd._chunk(p, 6, 2) < images
  g = normal(images, 9, 9, 2, seed=2)
  run = jax.jit(functools.partial(both, padding=((1, 1), (1, 1))), static_argnums=0)
  for actual, expected in zip(
    run(cpu.conv, x, kernel, g), run(reference.conv, x, kernel, g), strict=True
  ):
    assert_close(actual, expected)


def test_a_plan_exists_only_if_it_saves_multiplications():
  for side, r in itertools.product(range(5, 30), (3, 5)):
    p = winograd.plan((1, side, side, 8), r, ((0, 0), (0, 0)))
    if p:
      assert p.products < (r * (side - r + 1)) ** 2
      assert all(count * p.m >= out for count, out in zip(p.tiles, p.out, strict=True))
  # There are no tiles for 7x7 kernels.
  assert winograd.plan((1, 20, 20, 8), 7, ((0, 0), (0, 0))) is None
  # A single output saves no multiplications.
  assert winograd.plan((1, 5, 5, 8), 5, ((0, 0), (0, 0))) is None


def test_towers_with_shared_maps_are_computed_as_one_layer():
  """Values and gradients equal those of separate towers, with half as many products."""
  x, kernel, bias = normal(2, 9, 9, 6), normal(2, 3, 3, 6, 4, seed=1), normal(2, 4, seed=2)
  padding = ((1, 1), (1, 1))

  def loss(layer, x, kernel, bias, shared):
    ys = layer([x, x] if shared else [x, x + 0], kernel, bias, 1, padding)
    return sum((t + 1) * (y**2).sum() for t, y in enumerate(ys))

  def run(layer, shared):
    both = jax.value_and_grad(lambda *args: loss(layer, *args, shared), argnums=(0, 1, 2))
    return jax.jit(both)(x, kernel, bias)

  value, gradients = run(cpu.tower_convs, True)
  expected, expected_gradients = run(reference.tower_convs, True)
  assert float(value) == pytest.approx(float(expected), rel=1e-5)
  jax.tree.map(assert_close, gradients, expected_gradients)

  def count(shared):
    return str(
      jax.make_jaxpr(lambda *args: loss(cpu.tower_convs, *args, shared))(x, kernel, bias)
    ).count('dot_general')

  assert 2 * count(True) == count(False)


def test_conv_runs_under_shard_map():
  """The kernel is replicated, each device has other images, and the check of replication is on."""
  devices = jax.devices()[:2]
  if len(devices) < 2:
    pytest.skip('needs two devices')
  mesh = Mesh(np.array(devices), ('data',))
  x, kernel, bias = normal(4, 9, 9, 6), normal(3, 3, 6, 4, seed=1), normal(4, seed=2)

  def loss(x, kernel, bias):
    y = cpu.conv(x, kernel, bias, 1, ((1, 1), (1, 1)))
    return jax.lax.psum((y**2).sum(), 'data')

  gradient = jax.jit(
    jax.shard_map(
      jax.grad(loss, argnums=(0, 1)),
      mesh=mesh,
      in_specs=(P('data'), P(), P()),
      out_specs=(P('data'), P()),
    )
  )
  whole = jax.jit(
    jax.grad(
      lambda x, k: (reference.conv(x, k, bias, 1, ((1, 1), (1, 1))) ** 2).sum(), argnums=(0, 1)
    )
  )(x, kernel)
  jax.tree.map(assert_close, gradient(x, kernel, bias), whole)
