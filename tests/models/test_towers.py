"""The towers depend on each other only after a layer that exchanges their outputs."""

import functools

from helpers import (
  images,
  layer_outputs,
  narrow,
  relative_error,
  shapes,
  visible_params,
)
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import models
from alexnet_jax.models import towers


def changed_maps(variant, layer, tower, **overrides):
  """Returns, for each layer, which maps of each tower change when `layer` of one tower is perturbed."""
  model = narrow(variant, **overrides)
  params, x = visible_params(model), images(model)
  before = layer_outputs(model, params, x)
  perturbed = jax.tree.map(np.copy, params)
  perturbed[layer]['kernel'][tower] *= 1.5
  after = layer_outputs(model, perturbed, x)

  def maps(a, b):
    return np.asarray(a != b).any(tuple(range(a.ndim - 1)))

  return {
    name: [maps(a, b) for a, b in zip(before[name], after[name], strict=True)]
    for name in before
    if name != 'fc8'
  }


@pytest.mark.parametrize('variant', ['paper', 'original'])
@pytest.mark.parametrize('tower', [0, 1])
def test_towers_are_independent_before_conv3(variant, tower):
  changed = changed_maps(variant, 'conv1', tower)
  operations = ('norm', 'act', 'pool')
  before = {'conv1', 'conv2', *(f'{layer}/{x}' for layer in ('conv1', 'conv2') for x in operations)}
  if variant == 'original':
    before |= {'conv2/map_norm'}
  after = changed.keys() - before
  assert after >= {'conv3', 'conv4', 'conv5', 'fc6', 'fc7'}
  assert before < changed.keys()
  for name in before:
    assert not changed[name][1 - tower].any(), name
    assert changed[name][tower].any(), name
  for name in after:
    assert changed[name][0].any() and changed[name][1].any(), name


def test_conv4_and_conv5_stay_in_their_tower():
  changed = changed_maps('paper', 'conv3', 0)
  for name in ('conv3', 'conv4', 'conv5', 'conv5/pool'):
    assert changed[name][0].any() and not changed[name][1].any(), name
  assert changed['fc6'][1].any()


@pytest.mark.long
@pytest.mark.parametrize(
  ('variant', 'perturbed', 'meeting'),
  [('paper+no_conv3', 'conv2', 'conv4'), ('paper+conv6', 'conv5', 'conv6')],
)
def test_other_networks_exchange_outputs_in_other_layers(variant, perturbed, meeting):
  changed = changed_maps(variant, perturbed, 0)
  assert not changed[perturbed][1].any() and changed[meeting][1].any()


def test_normalisation_over_all_maps_reads_the_other_tower():
  """Caffe's window of five maps covers exactly two maps of the other tower."""
  layers = ('conv1', 'fc6', 'fc8')
  changed = changed_maps('caffe', 'conv1', 0, layers=layers)
  assert not changed['conv1/act'][1].any()
  assert changed['conv1/norm'][1].tolist() == [True, True, False, False, False, False]
  changed = changed_maps('caffe', 'conv1', 1, layers=layers)
  assert changed['conv1/norm'][0].tolist() == [False, False, False, False, True, True]


def test_batch_norm_updates_and_uses_running_moments():
  """Training uses the moments of the batch and updates the running moments, which evaluation uses."""
  layers = ('conv1', 'conv2', 'fc6', 'fc8')
  model = narrow('paper+batch_norm+no_dropout', width=1 / 16, layers=layers)
  x = images(model, batch=4)
  module = models.create(model)
  params = visible_params(model)
  zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes(model)['batch_stats'])
  stats = {layer: {'mean': m['mean'], 'var': m['var'] + 1} for layer, m in zeros.items()}
  assert set(stats) == {'batch_norm1', 'batch_norm2'}
  apply = functools.partial(module.apply, capture_intermediates=True)
  _, state = jax.jit(
    lambda v, x: apply(
      v,
      x,
      train=True,
      mutable=['batch_stats', 'intermediates'],
      rngs={'dropout': jax.random.key(0)},
    )
  )({'params': params, 'batch_stats': stats}, x)
  for n, tower in (('1', 0), ('1', 1), ('2', 0), ('2', 1)):
    before = np.asarray(state['intermediates'][f'conv{n}/act'][0][tower], np.float64)
    mean, var = before.mean((0, 1, 2)), before.var((0, 1, 2))
    running = state['batch_stats'][f'batch_norm{n}']
    np.testing.assert_allclose(running['mean'][tower], 0.1 * mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(running['var'][tower], 0.9 + 0.1 * var, rtol=1e-3)
    p = params[f'batch_norm{n}']
    expected = (before - mean) / np.sqrt(var + 1e-5) * p['scale'][tower] + p['bias'][tower]
    after = state['intermediates'][f'conv{n}/norm'][0][tower]
    assert relative_error(after, expected) < 1e-4
  test = jax.jit(module.apply)
  tested = test({'params': params, 'batch_stats': stats}, x)
  moved = test({'params': params, 'batch_stats': state['batch_stats']}, x)
  assert relative_error(tested, moved) > 1e-3


def test_logits_of_bfloat16_maps_are_not_rounded():
  """A logit near 16 would be rounded to a multiple of 0.125, and the loss would read the difference."""

  def zeros(key, shape, fan_in):
    return jnp.zeros(shape)

  rng = np.random.default_rng(0)
  xs = [jnp.asarray(rng.standard_normal((4, 64)), jnp.bfloat16) for _ in range(2)]
  kernel = rng.standard_normal((2, 64, 5), np.float32)
  head = towers.Head(5, 2, None, None, zeros, zeros)
  found = head.apply({'params': {'kernel': kernel, 'bias': jnp.zeros(5)}}, xs)
  exact = sum(np.asarray(x, np.float64) @ kernel[t] for t, x in enumerate(xs))
  assert relative_error(found, exact) < 2e-6
