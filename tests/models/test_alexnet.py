"""Whole networks equal the same networks in TensorFlow; the public interface checks its input."""

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
import pytest
import tensorflow as tf

from alexnet_jax import create, models
from alexnet_jax.errors import UserError
from alexnet_jax.models.alexnet import intermediate_key

RECIPES = ('paper', 'original', 'caffe', 'owt', 'torchvision')


# The values are: the padding of conv1; k and the factor of the sum in local response normalisation (LRN);
# whether LRN reads both towers; whether the first LRN precedes ReLU; whether maps are normalised; and the
# factor of dropout outside of training.
KEYS = ('padding', 'lrn', 'across', 'linear_norm1', 'map_norm', 'keep')


REFERENCES = {
  'paper': ((0, 3), (2.0, 1e-4), False, False, False, 0.5),
  'original': ((0, 3), (2.0, 2e-5), False, True, True, 0.5),
  'caffe': ((0, 0), (1.0, 2e-5), True, False, False, 1.0),
  'owt': ((0, 3), (2.0, 2e-5), False, True, False, 0.5),
  'torchvision': ((2, 2), None, False, False, False, 1.0),
}


def reference(params, x, *, padding, lrn, across, linear_norm1, map_norm, keep):
  """Computes the logits with TensorFlow. Lists have an entry for each tower."""
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
def test_networks_agree_with_tensorflow(recipe):
  """The logits are equal up to rounding, and any other value of a setting changes them."""
  model = narrow(recipe)
  params, x = visible_params(model), images(model)
  settings = dict(zip(KEYS, REFERENCES[recipe], strict=True))
  actual = forward(model)(params, x)
  assert actual.dtype == jnp.float32
  assert relative_error(actual, reference(params, x, **settings)) < 1e-4

  # The other paddings give outputs of 55x55 pixels too.
  padding = {(0, 3): (3, 0), (0, 0): (1, 1), (2, 2): (0, 3)}
  others = {'padding': padding[settings['padding']], 'keep': 1.5 - settings['keep']}
  if settings['lrn']:
    k, alpha = settings['lrn']
    others |= {key: not settings[key] for key in ('linear_norm1', 'map_norm')}
    others |= {'across': not settings['across']} if model.towers == 2 else {}
    for lrn in ((3 - k, alpha), (k, 2e-5 if alpha == 1e-4 else 1e-4)):
      assert relative_error(actual, reference(params, x, **settings | {'lrn': lrn})) > 1e-2, lrn
  for key, value in others.items():
    assert relative_error(actual, reference(params, x, **settings | {key: value})) > 1e-2, key


def test_create_accepts_a_config_dict():
  """The public interface takes a ConfigDict and returns logits `[B, classes]`, without a mesh."""
  config = get('torchvision', model__width=1 / 16)
  module = create(config.model)
  params = shapes(FrozenConfigDict(config.model))['params']
  x = images(FrozenConfigDict(config.model), batch=3)
  logits = jax.eval_shape(lambda p, x: module.apply({'params': p}, x, train=False), params, x)
  assert logits.shape == (3, 1000) and logits.dtype == jnp.float32  # num_classes 0 means 1000 here


def test_a_bfloat16_network_is_close_to_float32():
  model, half = narrow('original'), narrow('original+bfloat16')
  params, x = visible_params(model), images(model)
  logits = forward(half)(params, x)
  assert logits.dtype == jnp.float32
  error = relative_error(logits, forward(model)(params, x))
  assert 1e-5 < error < 0.05  # the computation is not in float32


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
def test_invalid_values_are_refused(key, value, named):
  config = get(**{f'model__{key.replace(".", "__")}': value})
  with pytest.raises(UserError, match=named):
    create(config.model)


@pytest.mark.parametrize('shape', [(2, 227, 227, 3), (2, 3, 224, 224), (224, 224, 3)])
def test_images_of_the_wrong_shape_are_refused(shape):
  model = narrow('paper', width=1 / 16)
  module = models.create(model)
  with pytest.raises(UserError, match='224, 224, 3'):
    module.apply({'params': visible_params(model)}, jnp.zeros(shape))


def test_every_operation_has_its_own_intermediate_key():
  """The key contains the name of the layer, because two layers can have the same number."""
  model = narrow('paper+conv6', width=1 / 16)
  outputs = jax.eval_shape(
    functools.partial(layer_outputs, model), shapes(model)['params'], images(model)
  )
  for layer in model.layers[:-1]:
    for operation in model[layer].then:
      assert intermediate_key(layer, operation) in outputs
  assert outputs['conv6/act'][0].shape == (2, 6, 6, 8)
  assert outputs['fc6/act'][0].shape == (2, 128)
