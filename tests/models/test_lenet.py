"""LeNet-5 has the size that the paper of 1998 (LeCun et al.) states, and one input channel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import config as config_lib
from alexnet_jax import models
from alexnet_jax.errors import UserError


def model(name):
  """Returns `config.model` of `FILE:VARIANT` in configs/, for 10 classes."""
  file, variant = name.split(':')
  config = config_lib.load_file(f'configs/{file}.py:{variant}').model
  config.num_classes = 10
  return config


@pytest.mark.parametrize(
  ('name', 'parameters', 'sides'),
  [
    # The layers have 156 (C1), 2,416 (C3), 48,120 (C5), 10,164 (F6) and 850 (output) parameters. In the paper
    # C stands for a convolution, S for subsampling and F for a fully connected layer.
    ('lenet:mnist', 61_706, (28, 14, 10, 5, 1)),
    # Overlapping windows of max pooling leave maps of the same size.
    ('lenet:mnist+max_pool', 61_706, (28, 14, 10, 5, 1)),
  ],
)
def test_parameters_and_map_sizes(name, parameters, sides):
  """The sides are those of the maps of C1, S2, C3, S4 and C5."""
  rows = models.layer_table(model(name))
  assert sum(row['parameters'] for row in rows) == parameters
  assert tuple(row['output'][0] for row in rows if len(row['output']) == 3) == sides


def test_gray_networks_use_the_mean_of_the_channels():
  """Exchanging the colour channels does not change the logits."""
  module = models.create(model('lenet:mnist'))
  x = np.random.default_rng(2).normal(size=(3, 28, 28, 3)).astype(np.float32)
  variables = jax.jit(module.init)(jax.random.key(0), jnp.asarray(x))
  assert variables['params']['conv1']['kernel'].shape == (1, 5, 5, 1, 6)
  apply = jax.jit(module.apply)
  np.testing.assert_allclose(
    apply(variables, x), apply(variables, x[..., ::-1]), rtol=1e-5, atol=1e-7
  )


def test_ideas_of_alexnet_are_added_to_the_variant():
  config = model('lenet:mnist+relu+dropout')
  assert config.activation == 'relu'
  assert config.fc4.then == ('act', 'dropout')
  assert config.conv1.then == model('lenet:mnist').conv1.then
  with pytest.raises(UserError, match=r"unknown idea 'rely'.*relu"):
    model('lenet:mnist+rely')
