"""Configs as JSON: configs of earlier versions keep their meaning."""

import json

import pytest

from alexnet_jax import config as config_lib
from alexnet_jax.config import recipes


@pytest.mark.parametrize('recipe', recipes.RECIPES)
def test_a_config_without_the_exif_orientation_ignores_it(recipe):
  """New runs of `paper` turn photographs upright; the recipes of other programs ignore EXIF data."""
  config = recipes.get(recipe)
  assert config.data.canvas.exif_orientation == (recipe == 'paper')
  assert config_lib.from_json(config_lib.to_json(config)) == config
  values = json.loads(config_lib.to_json(config))
  del values['data']['canvas']['exif_orientation']
  assert config_lib.from_json(json.dumps(values)).data.canvas.exif_orientation is False
