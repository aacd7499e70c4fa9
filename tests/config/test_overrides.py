"""Overrides change the keys that they name; one that removes a layer moves its pooling and exchange."""

from helpers import get
import pytest

from alexnet_jax import config as config_lib
from alexnet_jax.config import overrides, recipes
from alexnet_jax.errors import UserError


def test_overrides_are_combined():
  config = recipes.get('original+one_gpu+no_norm')
  assert config.model.towers == 1 and config.model.norm == 'none'
  assert config.optim.bias_rate == 0.02


def test_pooling_and_exchange_of_a_removed_layer_move_to_a_neighbour():
  assert get('paper+no_conv2').model.conv1.then == ('act', 'norm', 'pool', 'pool')
  assert get('paper+no_conv3').model.conv4.exchange
  assert get('paper+no_conv5').model.conv4.then == ('act', 'pool')
  for number in (2, 3, 4, 5):
    layers = get(f'paper+no_conv{number}').model.layers
    assert f'conv{number}' not in layers and len(layers) == 7


def test_conv6_comes_before_fc6():
  assert get('paper+conv6').model.layers[4:7] == ('conv5', 'conv6', 'fc6')


# Overrides that are functions are left out, because they depend on the config that they change.
@pytest.mark.parametrize(
  'name', sorted(name for name, changes in overrides.OVERRIDES.items() if not callable(changes))
)
def test_applying_an_override_twice_equals_applying_it_once(name):
  once, twice = recipes.get(f'paper+{name}'), recipes.get(f'paper+{name}+{name}')
  twice.recipe = once.recipe
  assert config_lib.to_json(once) == config_lib.to_json(twice)


@pytest.mark.parametrize(
  ('name', 'hint'), [('no_relu', 'did you mean no_'), ('sigmoid', 'choose one of large_batch')]
)
def test_an_unknown_override(name, hint):
  with pytest.raises(UserError, match=f"unknown override '{name}': {hint}"):
    recipes.get(f'paper+{name}')
