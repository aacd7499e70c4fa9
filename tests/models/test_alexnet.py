"""The networks of the recipes: sizes, parameters, who sees whom, and whole nets against TensorFlow."""

import functools

from helpers import (
  forward,
  get,
  images,
  layer_outputs,
  narrow,
  relative_error,
  shapes,
  visible_params,
)
import jax
import jax.numpy as jnp
from ml_collections import FrozenConfigDict
import numpy as np
import pytest
import tensorflow as tf

from alexnet_jax import create, models
from alexnet_jax.errors import UserError

RECIPES = ('paper', 'original', 'caffe', 'owt', 'torchvision')
TWO_TOWERS = ('paper', 'original', 'caffe')


# --- who sees whom


def changed_maps(variant, layer, tower, **overrides):
  """Which maps of each tower change, layer by layer, when one tower's `layer` is perturbed."""
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
def test_towers_are_apart_before_conv3(variant, tower):
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


@pytest.mark.parametrize(
  ('variant', 'perturbed', 'meeting'),
  [('paper+no_conv3', 'conv2', 'conv4'), ('paper+conv6', 'conv5', 'conv6')],
)
def test_other_meeting_places(variant, perturbed, meeting):
  changed = changed_maps(variant, perturbed, 0)
  assert not changed[perturbed][1].any() and changed[meeting][1].any()


def test_norm_over_all_maps_crosses_the_border():
  """Caffe's window of 5 reaches two maps into the other tower, and no further."""
  changed = changed_maps('caffe', 'conv1', 0)
  assert not changed['conv1/act'][1].any()
  assert changed['conv1/norm'][1].tolist() == [True, True, False, False, False, False]
  changed = changed_maps('caffe', 'conv1', 1)
  assert changed['conv1/norm'][0].tolist() == [False, False, False, False, True, True]


# --- whole networks, written again with TensorFlow's operations from FACTS sections 1 and 9

# padding of conv1, k of LRN and what multiplies its sum, whether it crosses the tower border, whether
# the first LRN precedes ReLU, whether there is a norm within maps, and dropout's factor at test time.
KEYS = ('padding', 'lrn', 'across', 'linear_norm1', 'map_norm', 'keep')
REFERENCES = {
  'paper': ((0, 3), (2.0, 1e-4), False, False, False, 0.5),
  'original': ((0, 3), (2.0, 2e-5), False, True, True, 0.5),
  'caffe': ((0, 0), (1.0, 2e-5), True, False, False, 1.0),
  'owt': ((0, 3), (2.0, 2e-5), False, True, False, 0.5),
  'torchvision': ((2, 2), None, False, False, False, 1.0),
}


def reference(params, x, *, padding, lrn, across, linear_norm1, map_norm, keep):
  """The logits; a tower is an entry of a list, as a GPU was in 2012."""
  towers = len(params['conv1']['kernel'])

  def conv(xs, name, pads, stride=1):
    kernel, bias = params[name]['kernel'], params[name]['bias']
    padded = [tf.pad(x, [[0, 0], pads, pads, [0, 0]]) for x in xs]
    return [tf.nn.conv2d(x, kernel[t], stride, 'VALID') + bias[t] for t, x in enumerate(padded)]

  def norm(xs):
    if lrn is None:
      return xs
    over = functools.partial(tf.nn.lrn, depth_radius=2, bias=lrn[0], alpha=lrn[1], beta=0.75)
    return tf.split(over(tf.concat(xs, -1)), towers, -1) if across else list(map(over, xs))

  def within(x):
    sums = tf.nn.depthwise_conv2d(x * x, tf.ones([5, 5, x.shape[-1], 1]), [1, 1, 1, 1], 'SAME')
    return x / (1 + 4e-5 * sums) ** 0.75

  def relu(xs):
    return [tf.nn.relu(x) for x in xs]

  def pool(xs):
    return [tf.nn.max_pool2d(x, 3, 2, 'VALID') for x in xs]

  def dense(x, name):
    kernel, bias = params[name]['kernel'], params[name]['bias']
    return keep * tf.nn.relu(x @ tf.concat(list(kernel), -1) + tf.concat(list(bias), -1))

  xs = conv([x] * towers, 'conv1', padding, stride=4)
  xs = relu(pool(norm(xs))) if linear_norm1 else pool(norm(relu(xs)))
  xs = norm(relu(conv(xs, 'conv2', (2, 2))))
  xs = pool([within(x) for x in xs] if map_norm else xs)
  xs = relu(conv([tf.concat(xs, -1)] * towers, 'conv3', (1, 1)))
  xs = relu(conv(xs, 'conv4', (1, 1)))
  xs = pool(relu(conv(xs, 'conv5', (1, 1))))
  x = tf.reshape(tf.concat(xs, -1), [len(x), -1])  # rows, columns, maps of both towers
  x = dense(dense(x, 'fc6'), 'fc7')
  return x @ tf.concat(list(params['fc8']['kernel']), 0) + params['fc8']['bias']


@pytest.mark.parametrize('recipe', RECIPES)
def test_network_against_tensorflow(recipe):
  """Equal to rounding, while another choice in any one respect would be far off."""
  model = narrow(recipe)
  params, x = visible_params(model), images(model)
  settings = dict(zip(KEYS, REFERENCES[recipe], strict=True))
  actual = forward(model)(params, x)
  assert actual.dtype == jnp.float32
  assert relative_error(actual, reference(params, x, **settings)) < 1e-4

  padding = {(0, 3): (3, 0), (0, 0): (1, 1), (2, 2): (0, 3)}  # others that make 55x55 too
  others = {'padding': padding[settings['padding']], 'keep': 1.5 - settings['keep']}
  if settings['lrn']:
    k, alpha = settings['lrn']
    others |= {key: not settings[key] for key in ('linear_norm1', 'map_norm')}
    others |= {'across': not settings['across']} if model.towers == 2 else {}
    for lrn in ((3 - k, alpha), (k, 2e-5 if alpha == 1e-4 else 1e-4)):
      assert relative_error(actual, reference(params, x, **settings | {'lrn': lrn})) > 1e-2, lrn
  for key, value in others.items():
    assert relative_error(actual, reference(params, x, **settings | {key: value})) > 1e-2, key


def test_create_of_a_plain_config():
  """The public interface: a ConfigDict in, logits `[B, classes]` out, no mesh."""
  config = get('torchvision', model__width=1 / 16)
  module = create(config.model)
  params = visible_params(FrozenConfigDict(config.model))
  x = images(FrozenConfigDict(config.model), batch=3)
  logits = jax.jit(lambda p, x: module.apply({'params': p}, x, train=False))(params, x)
  assert logits.shape == (3, 1000)  # num_classes 0 means 1000 here


def test_tanh():
  """Every activation is tanh, and nothing else changed."""
  model = narrow('paper+tanh', width=1 / 16)
  params, x = visible_params(model), images(model)
  outputs = layer_outputs(model, params, x)
  for layer in ('conv1', 'conv5', 'fc7'):
    for before, after in zip(outputs[layer], outputs[f'{layer}/act'], strict=True):
      assert before.min() < 0
      np.testing.assert_allclose(after, np.tanh(before), atol=1e-5)


def test_bfloat16_network():
  model = narrow('original', width=1 / 16)
  half = narrow('original+bfloat16', width=1 / 16)
  params, x = visible_params(model), images(model)
  logits = forward(half)(params, x)
  assert logits.dtype == jnp.float32
  error = relative_error(logits, forward(model)(params, x))
  assert 1e-5 < error < 0.05  # not float32 in disguise


# --- training: dropout and batch normalisation


def train_function(model):
  """Compiled `f(params, x, rows, seed) -> logits` with dropout on."""
  module = models.create(model)
  return jax.jit(
    lambda params, x, rows, seed: module.apply(
      {'params': params}, x, train=True, rows=rows, rngs={'dropout': jax.random.key(seed)}
    )
  )


def test_training_is_repeatable_row_by_row():
  model = narrow('paper', width=1 / 16)
  params, x = visible_params(model), images(model, batch=6)
  train = train_function(model)
  logits = train(params, x, np.arange(6), 0)
  np.testing.assert_array_equal(logits, train(params, x, np.arange(6), 0))
  some = np.array([4, 1])
  assert relative_error(train(params, x[some], some, 0), logits[some]) < 1e-5
  assert relative_error(train(params, x[some], some - 1, 0), logits[some]) > 1e-2
  assert relative_error(train(params, x, np.arange(6), 1), logits) > 1e-2
  assert relative_error(train(params, x, None, 0), logits) < 1e-5  # rows 0 ... B-1


@pytest.mark.parametrize(
  ('variant', 'inputs'),
  [
    ('paper', {'fc6/dropout': 'fc6/act', 'fc7/dropout': 'fc7/act'}),  # after fc6 and fc7
    ('caffe', {'fc6/dropout': 'fc6/act', 'fc7/dropout': 'fc7/act'}),
    ('torchvision', {'conv5/dropout': 'conv5/pool', 'fc6/dropout': 'fc6/act'}),  # before them
  ],
)
def test_where_dropout_acts(variant, inputs):
  """Where it stands, what it multiplies by, and that towers and layers draw masks of their own."""
  model = narrow(variant, width=1 / 4)
  params, x = visible_params(model), images(model, batch=2)
  module = models.create(model)
  apply = functools.partial(module.apply, train=True, mutable=['intermediates'])
  _, state = jax.jit(lambda v, x, key: apply(v, x, rngs={'dropout': key}))(
    {'params': params}, x, jax.random.key(0)
  )
  outputs = {name: out[0] for name, out in state['intermediates'].items()}
  assert {name for name in outputs if name.endswith('/dropout')} == inputs.keys()
  scale = 2.0 if model.dropout.inverted else 1.0
  masks = []  # of each layer, tower and row
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
    for other_live, other_mask in masks[:i]:  # two draws agree on about half of the live units
      both = live & other_live
      assert both.sum() > 60
      assert 0.2 < (mask == other_mask)[both].mean() < 0.8


def test_no_dropout():
  model = narrow('paper+no_dropout', width=1 / 16)
  params, x = visible_params(model), images(model)
  trained = train_function(model)(params, x, np.arange(2), 0)
  assert relative_error(trained, forward(model)(params, x)) < 1e-6


def test_batch_norm():
  """Training uses the moments of the batch and moves the running ones; testing uses those."""
  model = narrow('paper+batch_norm+no_dropout', width=1 / 16)
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
  tested = jax.jit(module.apply)({'params': params, 'batch_stats': stats}, x)
  moved = jax.jit(module.apply)({'params': params, 'batch_stats': state['batch_stats']}, x)
  assert relative_error(tested, moved) > 1e-3


# --- initial weights (FACTS section 1.5)

NORMAL_INIT = {
  # deviations and biases of conv1 ... conv5, fc6, fc7, fc8
  'paper': ((0.01,) * 8, (0, 1, 0, 1, 1, 1, 1, 0)),
  'original': ((0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01), (0, 1, 0, 1, 1, 1, 1, 0)),
  'caffe': ((0.01,) * 5 + (0.005, 0.005, 0.01), (0, 0.1, 0, 0.1, 0.1, 0.1, 0.1, 0)),
  'owt': ((0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01), (0, 1, 0, 1, 1, 1, 1, -7)),
}


def initial_params(model, seed=0):
  image = jnp.zeros((1, model.input_size, model.input_size, 3))
  init = jax.jit(lambda key: models.create(model).init(key, image)['params'])
  return jax.device_get(init(jax.random.key(seed)))


@pytest.mark.parametrize('recipe', NORMAL_INIT)
def test_normal_init(recipe):
  params = initial_params(narrow(recipe, width=1 / 4, num_classes=1000))
  layers = get(recipe).model.layers
  assert set(params) == set(layers)
  deviations, biases = NORMAL_INIT[recipe]
  for layer, deviation, bias in zip(layers, deviations, biases, strict=True):
    kernel = params[layer]['kernel']
    error = 4 / np.sqrt(2 * kernel.size)  # four standard deviations of a sample's deviation
    np.testing.assert_allclose(kernel.std(), deviation, rtol=error, err_msg=layer)
    assert abs(kernel.mean()) < 4 * deviation / np.sqrt(kernel.size)
    # Not truncated: among n draws some lie beyond 3 deviations.
    assert np.abs(kernel).max() > 3 * deviation
    np.testing.assert_array_equal(params[layer]['bias'], np.float32(bias), err_msg=layer)
    if kernel.shape[0] == 2:
      assert not np.array_equal(kernel[0], kernel[1])


@pytest.mark.parametrize('towers', [1, 2])
def test_torch_init(towers):
  """U(-1/sqrt(fan_in), 1/sqrt(fan_in)); the tower axis is no part of the fan-in."""
  model = narrow('torchvision', width=1 / 4, num_classes=1000, towers=towers)
  params = initial_params(model)
  assert params['conv1']['kernel'].shape[0] == towers
  for layer, leaves in params.items():
    # Inputs of one output: the maps it sees, those of both towers for conv3 and fc8 too.
    fan_in = np.prod(leaves['kernel'].shape[1:-1]) * (towers if layer == 'fc8' else 1)
    bound = 1 / np.sqrt(fan_in)
    for values in leaves.values():
      assert np.abs(values).max() <= bound, layer
      assert np.abs(values).max() > bound * (1 - 20 / values.size), layer
      error = 5 * bound / np.sqrt(3 * values.size)
      assert abs(values.mean()) < error, layer
      np.testing.assert_allclose(values.std(), bound / np.sqrt(3), atol=error, err_msg=layer)


# --- mistakes


@pytest.mark.parametrize(
  ('key', 'value', 'named'),
  [
    ('name', 'vgg', 'config.model.name'),
    ('activation', 'gelu', 'config.model.activation'),
    ('norm', 'layer', 'config.model.norm'),
    ('init', 'he', 'config.model.init'),
    ('dtype', 'float16', 'config.model.dtype'),
    ('pool.rounding', 'round', 'config.model.pool.rounding'),
    ('lrn.scope', 'layer', 'config.model.lrn.scope'),
    ('towers', 3, 'config.model.towers'),
    ('layers', ('conv1', 'conv9', 'fc8'), 'conv9'),
    ('conv1.then', ('act', 'lrn'), 'config.model.conv1.then'),
    ('num_classes', -1, 'config.model.num_classes'),
    ('num_classes', 1, 'config.model.num_classes'),
    ('dropout.rate', 1.0, 'config.model.dropout.rate'),
    ('width', 0.0, 'config.model.width'),
    ('width', 1e30, 'config.model.width'),
    ('conv1.features', -5, 'config.model.conv1.features'),
    ('conv1.padding', ((-70, 0), (0, 3)), 'config.model.conv1.padding'),
    ('conv1.padding', ((0, 0.5), (0, 3)), 'config.model.conv1.padding'),
    ('fc6.then', ('act', 'pool'), 'config.model.fc6.then'),
  ],
)
def test_bad_values(key, value, named):
  config = get(**{f'model__{key.replace(".", "__")}': value})
  with pytest.raises(UserError, match=named):
    create(config.model)


@pytest.mark.parametrize('shape', [(2, 227, 227, 3), (2, 3, 224, 224), (224, 224, 3)])
def test_bad_images(shape):
  model = narrow('paper', width=1 / 16)
  module = models.create(model)
  with pytest.raises(UserError, match='224, 224, 3'):
    module.apply({'params': visible_params(model)}, jnp.zeros(shape))
