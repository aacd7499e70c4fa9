"""Configs on disk: what was written by an earlier version still reads as what it meant."""

import json

import pytest

from alexnet_jax import config as config_lib
from alexnet_jax import models
from alexnet_jax.config import recipes
from alexnet_jax.config.validation import check_same_run
from alexnet_jax.errors import UserError


@pytest.mark.parametrize('variant', [*recipes.RECIPES, 'original+conv6+bfloat16'])
def test_keys_that_came_later_take_the_recipe_s_values(variant, tmp_path):
  """So that runs of an earlier version can be resumed."""
  config = recipes.get(variant)
  old = json.loads(config_lib.to_json(config))
  del old['parallelism'], old['optim']['scaling'], old['train']['diagnose_every']
  check_same_run(config_lib.from_json(json.dumps(old)), config, tmp_path)
  old['optim']['rate'] = 0.5
  assert config_lib.from_json(json.dumps(old)).optim.rate == 0.5


@pytest.mark.parametrize('recipe', ['mine', None, 7])
def test_a_recipe_of_somebody_else(recipe):
  values = {'recipe': recipe, 'model': {'width': 0.5}, 'extra': {'key': 1}}
  config = config_lib.from_json(json.dumps(values))
  assert config.model.width == 0.5 and config.extra.key == 1
  assert config.model.towers == 2 and config.parallelism == 'towers'


@pytest.mark.parametrize('text', ['[]', '7', '"x"', '{', '{"mesh": {}, "model": 3}'])
def test_damaged_json(text, tmp_path):
  """It is refused, or read as it stands; a traceback is neither."""
  (tmp_path / config_lib.FILE).write_text(text)
  try:
    config = config_lib.load_workdir(tmp_path)
  except UserError as error:
    assert config_lib.FILE in str(error)
  else:
    with pytest.raises(UserError):
      config_lib.validate(config)


@pytest.mark.parametrize('key', ['conv1.size', 'conv2.stride', 'pool.window', 'lrn.size'])
@pytest.mark.parametrize(('value', 'limit'), [(0, 'at least 1'), (10**6, 'at most 8192')])
def test_sides_in_pixels(key, value, limit):
  config = recipes.apply(recipes.get('paper'), {f'model.{key}': value})
  with pytest.raises(UserError, match=rf'config\.model\.{key}={value}: must be {limit}'):
    config_lib.validate(config)


def test_a_kernel_larger_than_what_it_sees():
  config = recipes.apply(recipes.get('paper'), {'model.conv2.size': 64})
  with pytest.raises(UserError, match='nothing is left of it at conv2'):
    models.layer_table(config.model)
