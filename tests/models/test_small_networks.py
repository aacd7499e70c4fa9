"""The CIFAR-10 networks and LeNet-5: their sizes, and the layers that only they have."""

from helpers import relative_error
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import config as config_lib
from alexnet_jax import models
from alexnet_jax.config import recipes
from alexnet_jax.errors import UserError
from alexnet_jax.models import layers
from alexnet_jax.models.operations import ACTIVATIONS

ROUNDING = 2e-6


def model(name):
  """`config.model` of `FILE:VARIANT` in configs/, for 10 classes."""
  file, variant = name.split(':')
  config = config_lib.load_file(f'configs/{file}.py:{variant}').model
  config.num_classes = 10
  return config


@pytest.mark.parametrize(
  ('name', 'parameters', 'sides'),
  [
    ('cifar10:relu', 89_578, (32, 16, 16, 8, 8, 4)),
    ('cifar10:tanh', 89_578, (32, 16, 16, 8, 8, 4)),
    ('cifar10:19pct', 89_578, (32, 16, 16, 8, 8, 4)),
    ('cifar10:18pct', 89_578, (32, 16, 16, 8, 8, 4)),
    ('cifar10:80sec', 145_578, (32, 16, 16, 8, 8, 4)),
    ('cifar10:conv_local_13pct', 1_116_490, (24, 12, 12, 6, 6, 6)),
    ('cifar10:conv_local_11pct', 1_116_490, (24, 12, 12, 6, 6, 6)),
    # C1 156, C3 2,416, C5 48,120, F6 10,164 and 850 of a linear output layer.
    ('lenet:mnist', 61_706, (28, 14, 10, 5, 1)),
  ],
)
def test_sizes(name, parameters, sides):
  """FACTS section 5; pools round up."""
  rows = models.layer_table(model(name))
  assert sum(row['parameters'] for row in rows) == parameters
  assert tuple(row['output'][0] for row in rows if len(row['output']) == 3) == sides


def test_multiply_adds_of_a_locally_connected_layer():
  """Each weight is used once an image."""
  rows = {row['layer']: row for row in models.layer_table(model('cifar10:conv_local_13pct'))}
  assert rows['local3']['macs'] == 6 * 6 * (3 * 3 * 64) * 32
  assert rows['conv2']['macs'] == 12 * 12 * (5 * 5 * 64) * 64


@pytest.mark.parametrize(
  ('size', 'stride', 'padding'),
  [(3, 1, ((1, 1), (1, 1))), (3, 2, ((0, 1), (1, 0))), (5, 3, ((2, 2), (2, 1)))],
)
def test_local(size, stride, padding):
  """Place by place in NumPy; and with one kernel everywhere it is a convolution."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 7, 9, 3)).astype(np.float32)
  padded = np.pad(x, ((0, 0), *padding, (0, 0)))
  places = [(n - size) // stride + 1 for n in padded.shape[1:3]]
  kernel = rng.normal(size=(*places, size * size * 3, 4)).astype(np.float32)
  bias = rng.normal(size=(*places, 4)).astype(np.float32)
  expected = np.zeros((2, *places, 4))
  for i, j in np.ndindex(*places):
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
  ('size', 'window', 'stride'), [(32, 3, 2), (8, 3, 2), (7, 2, 2), (9, 4, 3)]
)
def test_avg_pool(size, window, stride, rounding):
  """A window that sticks out is averaged over what is inside, forwards and backwards."""
  x = np.random.default_rng(1).normal(size=(2, size, size + 2, 3)).astype(np.float32)
  places = [layers.pooled_size(n, window, stride, rounding) for n in x.shape[1:3]]
  expected, gradient = np.zeros((2, *places, 3)), np.zeros(x.shape)
  for i, j in np.ndindex(*places):
    place = np.s_[:, i * stride : i * stride + window, j * stride : j * stride + window]
    expected[:, i, j] = x[place].mean((1, 2))
    gradient[place] += 1 / np.prod(x[place].shape[1:3])

  def pool(x):
    return layers.avg_pool(x, window=window, stride=stride, rounding=rounding)

  ours, pull = jax.vjp(pool, jnp.asarray(x))
  assert relative_error(ours, expected) < ROUNDING
  assert relative_error(pull(jnp.ones_like(ours))[0], gradient) < ROUNDING


def test_gray_networks_see_the_mean_of_the_channels():
  """So a colour that moves from one channel to another changes nothing."""
  module = models.create(model('lenet:mnist'))
  x = np.random.default_rng(2).normal(size=(3, 28, 28, 3)).astype(np.float32)
  variables = module.init(jax.random.key(0), jnp.asarray(x))
  assert variables['params']['conv1']['kernel'].shape == (1, 5, 5, 1, 6)
  np.testing.assert_allclose(
    module.apply(variables, x), module.apply(variables, x[..., ::-1]), rtol=1e-5, atol=1e-7
  )


def test_scaled_tanh():
  """LeCun's: 1 at 1, -1 at -1 (LeCun et al. 1998, appendix A)."""
  y = ACTIVATIONS['scaled_tanh'](jnp.asarray([-1.0, 0.0, 1.0, 100.0]))
  np.testing.assert_allclose(y, [-1, 0, 1, 1.7159], atol=1e-4)


def test_a_small_network_reads_back_and_compares(tmp_path):
  """Layers that neither network has do not count, those that both have do."""
  config = config_lib.load_file('configs/cifar10.py:relu')
  back = config_lib.from_json(config_lib.to_json(config))
  assert 'conv5' in back.model and 'conv5' not in config.model
  config_lib.check_same_run(back, config, tmp_path)
  recipes.apply(config, {'model.conv2.std': 0.02})
  with pytest.raises(UserError, match=r'model\.conv2\.std: 0\.01 there, 0\.02 here'):
    config_lib.check_same_run(back, config, tmp_path)
