"""`--mode=describe` returns numbers and prints tables. tests/distributed counts collectives on all meshes."""

import pytest
from tiny import tiny_config

from alexnet_jax import models
from alexnet_jax.config import recipes
from alexnet_jax.evaluation import describe


def test_neurons_are_outputs_of_layers_with_weights():
  """Outputs of pooling and normalisation are not counted."""
  model = recipes.get('paper+batch_norm+conv6').model
  layers = 290_400 + 186_624 + 64_896 + 64_896 + 43_264 + 4096 + 4096 + 1000
  assert layers == 659_272
  assert describe.neurons(model, models.layer_table(model)) == layers + 6 * 6 * 256


@pytest.mark.long
def test_tables_of_two_devices(capsys):
  """The tables on stderr agree with the result."""
  result = describe.describe(tiny_config(mesh=(1, 2)))
  assert result['mesh'] == [1, 2] and result['parameters'] > 0
  assert result['bytes_total'] == 8 * result['parameters']  # float32 weights and momentum
  assert result['bytes_per_device'] < 0.6 * result['bytes_total']
  gathers = [row for row in result['collectives'] if row['kind'] == 'all-gather']
  assert len(gathers) == 3 and {row['axis'] for row in gathers} == {'tower'}
  out, err = capsys.readouterr()
  assert out == ''
  lines = [line.split() for line in err.splitlines()]
  assert ['total', f'{result["parameters"]:,}', f'{result["macs"]:,}'] in lines
  size = sum(row['bytes'] for row in gathers)
  assert ['all-gather', 'tower', '3', f'{size:,}', f'{size // 2:,}'] in lines
  assert result['bytes_sent_per_device'] > size // 2 and 'demand' not in result


def test_one_device_has_no_collectives_and_an_assumed_speed_gives_demands(capsys):
  config = tiny_config(mesh=(1, 1), model__layers=('conv1', 'fc6', 'fc8'))
  result = describe.describe(config, images_per_s=100, devices_per_host=8)
  assert result['demand']['images_per_s'] == result['demand']['host_images_per_s'] == 100
  assert result['demand']['sent_per_device'] == result['bytes_sent_per_device'] == 0
  assert result['collectives'] == []
  err = capsys.readouterr().err
  assert 'if each device computes 100 images/s' in err
  assert 'none: the step runs on one device' in err
