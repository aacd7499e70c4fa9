"""Every recipe with every override is valid, and every recipe has the constants of its source."""

from helpers import get
import pytest

from alexnet_jax import config as config_lib
from alexnet_jax import models
from alexnet_jax.config import recipes
from alexnet_jax.config.overrides import NEED_TWO_TOWERS, OVERRIDES
from alexnet_jax.errors import UserError

CONVOLUTIONS = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5')


ONE_TOWER = [name for name in recipes.RECIPES if recipes.get(name).model.towers == 1]


@pytest.mark.parametrize(
  ('recipe', 'override'),
  [
    (recipe, override)
    for recipe in recipes.RECIPES
    for override in (None, *OVERRIDES)
    if override not in NEED_TWO_TOWERS or recipe not in ONE_TOWER
  ],
)
def test_every_override_is_valid_and_changes_the_recipe(recipe, override):
  variant = f'{recipe}+{override}' if override else recipe
  config = recipes.get(variant)
  assert config.recipe == variant
  config_lib.validate(config)
  rows = models.layer_table(config.model)
  assert [row['layer'] for row in rows if row['macs']] == list(config.model.layers)
  assert rows[-1]['output'] == (1000,)
  # Every override changes something, even in a recipe that already has some of its values.
  plain = config_lib.flatten(recipes.get(recipe))
  changed = {key for key, value in config_lib.flatten(config).items() if plain[key] != value}
  already = {
    ('torchvision', 'no_norm'),
    ('torchvision', 'no_colour'),
    ('caffe', 'warp'),
    ('caffe', 'no_colour'),
  }
  assert (changed > {'recipe'}) == (override is not None and (recipe, override) not in already)


@pytest.mark.parametrize('recipe', [*ONE_TOWER, 'original+one_gpu'])
@pytest.mark.parametrize('override', NEED_TWO_TOWERS)
def test_an_override_of_what_towers_exchange_needs_two_of_them(recipe, override):
  with pytest.raises(UserError, match=f'{override} needs two towers, and this network has one'):
    recipes.get(f'{recipe}+{override}')


@pytest.mark.parametrize('recipe', recipes.RECIPES)
def test_pooling_without_overlap_keeps_the_size_before_fc6(recipe):
  config = recipes.get(f'{recipe}+no_overlap').model
  pooled = next(row for row in models.layer_table(config) if row['layer'] == 'pool5')
  assert pooled['output'] == (6, 6, 256)


def test_recipes_are_independent_copies():
  """Neither a changed config nor another recipe affects a config that is created later."""
  before = config_lib.to_json(recipes.get('paper'))
  recipes.apply(recipes.get('paper'), {'model.width': 0.5})
  recipes.get('torchvision+tanh')
  assert config_lib.to_json(recipes.get('paper')) == before


def test_an_unknown_recipe_gets_a_suggestion():
  with pytest.raises(UserError, match="unknown recipe 'vgg': choose one of paper, original, caffe"):
    recipes.get('vgg')
  with pytest.raises(UserError, match=r"unknown recipe 'orignal': did you mean original\?"):
    recipes.get('orignal')


# The network of each recipe (docs/FACTS.md section 9).
NETWORKS = {
  'input_size': {'paper': 224, 'original': 224, 'caffe': 227, 'owt': 224, 'torchvision': 224},
  'towers': {'paper': 2, 'original': 2, 'caffe': 2, 'owt': 1, 'torchvision': 1},
  'norm': {
    'paper': 'lrn',
    'original': 'lrn',
    'caffe': 'lrn',
    'owt': 'lrn',
    'torchvision': 'none',
  },
  'lrn.k': {'paper': 2, 'original': 2, 'caffe': 1, 'owt': 2},
  'lrn.size': {'paper': 5, 'original': 5, 'caffe': 5, 'owt': 5},
  'lrn.scope': {'paper': 'tower', 'original': 'tower', 'caffe': 'all'},
  'lrn.divide': {'paper': False, 'original': True, 'caffe': True, 'owt': True},
  'init': {'paper': 'normal', 'original': 'normal', 'torchvision': 'torch'},
  'dropout.rate': dict.fromkeys(recipes.RECIPES, 0.5),
  'dropout.inverted': {
    'paper': False,
    'original': False,
    'caffe': True,
    'owt': False,
    'torchvision': True,
  },
}

# All other constants.
THE_REST = {
  'augment.crop': {
    'paper': 'random',
    'original': 'random',
    'caffe': 'random',
    'owt': 'random',
    'torchvision': 'resized',
  },
  'augment.mean': {
    'paper': 'image',
    'original': 'image',
    'caffe': 'image',
    'owt': 'image',
    'torchvision': 'channel',
  },
  'augment.mean_at': {'paper': 'crop', 'original': 'centre', 'caffe': 'crop', 'owt': 'centre'},
  'augment.colour': {'paper': 0.1, 'original': 0.1, 'caffe': 0, 'owt': 0.1, 'torchvision': 0},
  'augment.colour_divisor': {'paper': 1.0, 'original': 1.1, 'owt': 1.1},
  'augment.colour_until': {'paper': 0, 'original': 67, 'owt': 0},
  'augment.flip': dict.fromkeys(recipes.RECIPES, True),
  'data.canvas.size': dict.fromkeys(recipes.RECIPES, 256),
  'data.canvas.fit': {
    'paper': 'crop',
    'original': 'crop',
    'caffe': 'warp',
    'owt': 'crop',
    'torchvision': 'crop',
  },
  'optim.momentum': dict.fromkeys(recipes.RECIPES, 0.9),
  'optim.rate': dict.fromkeys(recipes.RECIPES, 0.01),
  'optim.bias_rate': {
    'paper': 0.01,
    'original': 0.02,
    'caffe': 0.02,
    'owt': 0.02,
    'torchvision': 0.01,
  },
  'optim.decay': {
    'paper': 5e-4,
    'original': 5e-4,
    'caffe': 5e-4,
    'owt': 5e-4,
    'torchvision': 1e-4,
  },
  'optim.bias_decay': {'paper': 0, 'original': 0, 'caffe': 0, 'owt': 0, 'torchvision': 1e-4},
  'optim.schedule': {
    'paper': 'steps',
    'original': 'steps',
    'caffe': 'steps',
    'owt': 'dexp',
    'torchvision': 'steps',
  },
  'optim.unit': {'paper': 'epoch', 'original': 'epoch', 'caffe': 'step', 'torchvision': 'epoch'},
  'optim.boundaries': {
    'paper': (25, 51, 79),
    'original': (25, 51, 79),
    'caffe': (100_000, 200_000, 300_000, 400_000),
    'torchvision': (30, 60),  # every 30 epochs of 90
  },
  'train.batch_size': {'paper': 128, 'original': 128, 'caffe': 256, 'owt': 128, 'torchvision': 256},
  'train.epochs': {'paper': 90, 'original': 91, 'caffe': 89.918, 'owt': 90, 'torchvision': 90},
}


@pytest.mark.parametrize('key', [*(f'model.{key}' for key in NETWORKS), *THE_REST])
def test_recipes_have_the_documented_values(key):
  expected = NETWORKS.get(key.removeprefix('model.')) or THE_REST[key]
  found = {recipe: config_lib.flatten(recipes.get(recipe))[key] for recipe in expected}
  assert found == expected


@pytest.mark.parametrize(
  ('recipe', 'features'),
  [
    ('paper', (96, 256, 384, 384, 256)),
    ('original', (96, 256, 384, 384, 256)),
    ('caffe', (96, 256, 384, 384, 256)),
    ('owt', (64, 192, 384, 256, 256)),
    ('torchvision', (64, 192, 384, 256, 256)),
  ],
)
def test_widths(recipe, features):
  model = get(recipe).model
  assert tuple(model[name].features for name in CONVOLUTIONS) == features
  crossing = [name for name in (*CONVOLUTIONS, 'fc6', 'fc7') if model[name].exchange]
  assert crossing == ['conv3', 'fc6', 'fc7']
