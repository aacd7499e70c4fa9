"""The CIFAR-10 networks of the paper have the sizes of docs/FACTS.md section 5."""

import pytest

from alexnet_jax import config as config_lib
from alexnet_jax import models
from alexnet_jax.config import recipes
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
    ('cifar10:relu', 89_578, (32, 16, 16, 8, 8, 4)),
    ('cifar10:tanh', 89_578, (32, 16, 16, 8, 8, 4)),
    ('cifar10:19pct', 89_578, (32, 16, 16, 8, 8, 4)),
    ('cifar10:18pct', 89_578, (32, 16, 16, 8, 8, 4)),
    ('cifar10:80sec', 145_578, (32, 16, 16, 8, 8, 4)),
    ('cifar10:conv_local_13pct', 1_116_490, (24, 12, 12, 6, 6, 6)),
    ('cifar10:conv_local_11pct', 1_116_490, (24, 12, 12, 6, 6, 6)),
  ],
)
def test_parameters_and_map_sizes(name, parameters, sides):
  """Pooling rounds up (FACTS section 5)."""
  rows = models.layer_table(model(name))
  assert sum(row['parameters'] for row in rows) == parameters
  assert tuple(row['output'][0] for row in rows if len(row['output']) == 3) == sides


def test_a_locally_connected_layer_has_one_multiply_add_per_weight():
  """Each weight of a locally connected layer is used once for each image."""
  rows = {row['layer']: row for row in models.layer_table(model('cifar10:conv_local_13pct'))}
  assert rows['local3']['macs'] == 6 * 6 * (3 * 3 * 64) * 32
  assert rows['conv2']['macs'] == 12 * 12 * (5 * 5 * 64) * 64


def test_unused_layers_do_not_matter_when_configs_are_compared(tmp_path):
  """Only the layers of the network count when two configs are compared."""
  config = config_lib.load_file('configs/cifar10.py:relu')
  back = config_lib.from_json(config_lib.to_json(config))
  assert 'conv5' in back.model and 'conv5' not in config.model
  config_lib.check_same_run(back, config, tmp_path)
  recipes.apply(config, {'model.conv2.std': 0.02})
  with pytest.raises(UserError, match=r'model\.conv2\.std: 0\.01 there, 0\.02 here'):
    config_lib.check_same_run(back, config, tmp_path)
