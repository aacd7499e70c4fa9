"""The activation and dropout operations of a layer. test_towers.py tests the normalisations."""

import functools

from helpers import (
  forward,
  get,
  images,
  layer_outputs,
  narrow,
  relative_error,
  visible_params,
)
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import models
from alexnet_jax.models import operations
from alexnet_jax.models.operations import ACTIVATIONS


def test_tanh_replaces_every_activation():
  """The value of every activation is the tanh of its input."""
  model = narrow('paper+tanh', width=1 / 16, layers=('conv1', 'conv5', 'fc7', 'fc8'))
  params, x = visible_params(model), images(model)
  outputs = layer_outputs(model, params, x)
  for layer in ('conv1', 'conv5', 'fc7'):
    for before, after in zip(outputs[layer], outputs[f'{layer}/act'], strict=True):
      assert before.min() < 0
      np.testing.assert_allclose(after, np.tanh(before), atol=1e-5)


def test_scaled_tanh_keeps_one_and_minus_one():
  """The function is 1 at 1 and -1 at -1 (LeCun et al. 1998, appendix A)."""
  y = ACTIVATIONS['scaled_tanh'](jnp.asarray([-1.0, 0.0, 1.0, 100.0]))
  np.testing.assert_allclose(y, [-1, 0, 1, 1.7159], atol=1e-4)


def train_function(model):
  """Returns a compiled function `f(params, x, rows, seed)` that returns the logits with dropout."""
  module = models.create(model)
  return jax.jit(
    lambda params, x, rows, seed: module.apply(
      {'params': params}, x, train=True, rows=rows, rngs={'dropout': jax.random.key(seed)}
    )
  )


def test_dropout_depends_only_on_seed_and_row():
  model = narrow('paper', width=1 / 16, layers=('conv1', 'fc6', 'fc7', 'fc8'))
  params, x = visible_params(model), images(model, batch=6)
  train = train_function(model)
  logits = train(params, x, np.arange(6), 0)
  np.testing.assert_array_equal(logits, train(params, x, np.arange(6), 0))
  some = np.array([4, 1])
  assert relative_error(train(params, x[some], some, 0), logits[some]) < 1e-5
  assert relative_error(train(params, x[some], some - 1, 0), logits[some]) > 1e-2
  assert relative_error(train(params, x, np.arange(6), 1), logits) > 1e-2
  # Without rows, the rows are 0 to B - 1 for a batch of B.
  assert relative_error(train(params, x, None, 0), logits) < 1e-5


@pytest.mark.parametrize(
  ('variant', 'inputs'),
  [
    ('paper', {'fc6/dropout': 'fc6/act', 'fc7/dropout': 'fc7/act'}),  # after fc6 and fc7
    ('caffe', {'fc6/dropout': 'fc6/act', 'fc7/dropout': 'fc7/act'}),
    # Here dropout comes before fc6 and fc7.
    ('torchvision', {'conv5/dropout': 'conv5/pool', 'fc6/dropout': 'fc6/act'}),
  ],
)
def test_dropout_follows_the_right_operations(variant, inputs):
  """It scales as the recipe requires, and has a separate mask for each layer and tower."""
  whole = get(variant).model
  dropped = [layer for layer in whole.layers[:-1] if 'dropout' in whole[layer].then]
  assert {f'{layer}/dropout' for layer in dropped} == inputs.keys()
  model = narrow(variant, width=1 / 4, layers=('conv1', 'conv5', 'fc6', 'fc7', 'fc8'))
  params, x = visible_params(model), images(model, batch=2)
  module = models.create(model)
  apply = functools.partial(module.apply, train=True, mutable=['intermediates'])
  _, state = jax.jit(lambda v, x, key: apply(v, x, rngs={'dropout': key}))(
    {'params': params}, x, jax.random.key(0)
  )
  outputs = {name: out[0] for name, out in state['intermediates'].items()}
  assert {name for name in outputs if name.endswith('/dropout')} == inputs.keys()
  scale = 2.0 if model.dropout.inverted else 1.0
  masks = []  # (active units, mask) of each layer, tower and row
  for after, before in inputs.items():
    for x, y in zip(outputs[before], outputs[after], strict=True):
      live = np.asarray(x) > 0
      mask = np.asarray(y) > 0
      assert 0.4 < mask[live].mean() < 0.6
      np.testing.assert_allclose(y, np.where(mask, scale * x, 0), rtol=1e-6)
      masks += [
        (on.reshape(-1)[:500], kept.reshape(-1)[:500]) for on, kept in zip(live, mask, strict=True)
      ]
  for i, (live, mask) in enumerate(masks):
    for other_live, other_mask in masks[:i]:  # two masks agree on about half of the active units
      both = live & other_live
      assert both.sum() > 60
      assert 0.2 < (mask == other_mask)[both].mean() < 0.8


def test_no_dropout():
  model = narrow('paper+no_dropout', width=1 / 16, layers=('conv1', 'fc6', 'fc7', 'fc8'))
  params, x = visible_params(model), images(model)
  trained = train_function(model)(params, x, np.arange(2), 0)
  assert relative_error(trained, forward(model)(params, x)) < 1e-6


@pytest.mark.parametrize(('first_tower', 'local'), [(0, 2), (1, 1)])
def test_dropout_keys_follow_their_formula(first_tower, local):
  """The formula, with five numbers reserved for each layer, keeps the masks of earlier runs."""
  seed, rows = jax.random.key(3), jnp.asarray([0, 7])
  keys = operations.dropout_keys(
    operations.row_keys(seed, rows),
    layer=6,
    position=1,
    first_tower=first_tower,
    local=local,
    towers=2,
  )
  assert len(keys) == local
  for tower, tower_keys in enumerate(keys, first_tower):
    for row, key in zip((0, 7), tower_keys, strict=True):
      expected = jax.random.fold_in(jax.random.fold_in(seed, row), (6 * 5 + 1) * 2 + tower)
      np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(expected))
