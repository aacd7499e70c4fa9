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


def test_several_layers_are_removed_in_any_order():
  for pair, then in (
    ('no_conv4+no_conv5', ('act', 'pool')),
    ('no_conv3+no_conv4', ('act', 'pool')),
  ):
    first, second = pair.split('+')
    one, other = (get(f'paper+{names}').model for names in (pair, f'{second}+{first}'))
    assert one.layers == other.layers and len(one.layers) == 6
    for model in (one, other):
      last = [layer for layer in model.layers if layer.startswith('conv')][-1]
      assert model[last].then == then and model[model.layers[2]].exchange
  assert not get('paper+no_exchange+no_conv3').model.conv4.exchange


@pytest.mark.parametrize(
  ('recipe', 'first', 'second'),
  [
    ('paper', 'no_conv3', 'no_communication'),
    ('paper', 'no_conv3', 'no_exchange'),
    ('paper', 'no_conv4', 'exchange_conv4'),
    ('caffe', 'no_conv2', 'caffenet'),
    ('original', 'conv6', 'no_communication'),
    ('torchvision', 'conv6', 'no_conv5'),
  ],
)
def test_the_order_of_overrides_has_no_effect(recipe, first, second):
  one, other = (get(f'{recipe}+{a}+{b}').model for a, b in ((first, second), (second, first)))
  assert one.layers == other.layers
  assert all(one[layer] == other[layer] for layer in one.layers)


def test_towers_without_communication_have_none_in_other_networks():
  for variant in ('no_conv3+no_communication', 'conv6+no_communication'):
    model = get(f'paper+{variant}').model
    assert not any(model[layer].exchange for layer in model.layers[:-1])


@pytest.mark.parametrize('change', ['conv6', 'no_conv5', 'no_conv3+no_conv4+no_conv5'])
def test_the_dropout_before_fc6_stays_there(change):
  model = get(f'torchvision+{change}').model
  *convolutions, last = [layer for layer in model.layers if layer.startswith('conv')]
  assert model[last].then[-1] == 'dropout'
  assert not any('dropout' in model[layer].then for layer in convolutions)


def test_boundaries_in_steps_move_with_the_batch():
  caffe, large = get('caffe').optim, get('caffe+large_batch').optim
  assert large.boundaries == tuple(boundary / 4 for boundary in caffe.boundaries)
  assert get('original+large_batch').optim.boundaries == get('original').optim.boundaries


def test_plateau_keeps_no_schedule_by_hand():
  config = get('original+plateau')
  assert config.optim.layer_rates == () and config.augment.colour_until == 0


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
