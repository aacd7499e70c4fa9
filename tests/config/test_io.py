"""Configs on disk: config files, and config.json of the current and of earlier versions."""

import json

import pytest

from alexnet_jax import config as config_lib
from alexnet_jax.config import recipes
from alexnet_jax.config.validation import check_same_run
from alexnet_jax.errors import UserError
from alexnet_jax.models import spec


@pytest.mark.parametrize('variant', [*recipes.RECIPES, 'original+conv6+bfloat16'])
def test_keys_added_by_a_later_version_have_the_values_of_the_recipe(variant, tmp_path):
  """Runs of an earlier version can be resumed."""
  config = recipes.get(variant)
  old = json.loads(config_lib.to_json(config))
  del old['parallelism'], old['optim']['scaling'], old['train']['diagnose_every']
  check_same_run(config_lib.from_json(json.dumps(old)), config, tmp_path)
  old['optim']['rate'] = 0.5
  assert config_lib.from_json(json.dumps(old)).optim.rate == 0.5


def test_a_last_layer_may_have_the_name_of_a_hidden_layer(tmp_path):
  config = recipes.get('paper')
  layers = {'conv1': spec.conv(8, 11, 0), 'fc6': spec.fc(16), 'fc7': spec.head()}
  spec.replace_layers(config.model, layers)
  old = config_lib.from_json(config_lib.to_json(config))
  assert 'then' not in old.model.fc7 and 'features' not in old.model.fc7
  check_same_run(old, config, tmp_path)


@pytest.mark.parametrize('recipe', ['mine', None, 7])
def test_an_unknown_recipe_is_completed_by_the_defaults(recipe):
  values = {'recipe': recipe, 'model': {'width': 0.5}, 'extra': {'key': 1}}
  config = config_lib.from_json(json.dumps(values))
  assert config.model.width == 0.5 and config.extra.key == 1
  assert config.model.towers == 2 and config.parallelism == 'towers'


@pytest.mark.parametrize('text', ['[]', '7', '"x"', '{', '{"mesh": {}, "model": 3}'])
def test_damaged_json_is_refused(text, tmp_path):
  """Reading or validating it raises UserError."""
  (tmp_path / config_lib.FILE).write_text(text)
  try:
    config = config_lib.load_workdir(tmp_path)
  except UserError as error:
    assert config_lib.FILE in str(error)
  else:
    with pytest.raises(UserError):
      config_lib.validate(config)


def test_a_workdir_without_a_config_is_refused(tmp_path):
  with pytest.raises(UserError, match=r'holds no config\.json'):
    config_lib.load_workdir(tmp_path)


@pytest.mark.parametrize(
  ('spec', 'message'),
  [
    ('quikstart', r'there is no file quikstart; .*did you mean quickstart\?'),
    ('configs/ilsvrc2021.py', r'did you mean ilsvrc201[02]\?'),
    ('alexnet:orignal', r"unknown recipe 'orignal': did you mean original\?"),
    ('cifar10:rlu', r"unknown variant 'rlu': did you mean relu\?"),
    ('nothing_like_it', 'choose one of ablations, alexnet'),
  ],
)
def test_an_unknown_config_gets_a_suggestion(spec, message):
  with pytest.raises(UserError, match=message):
    config_lib.load_file(spec)


@pytest.mark.parametrize(
  ('source', 'message'),
  [
    ('def get_config():\n  return {}\n', 'must return a ConfigDict'),
    ('def get_config():\n  return 1 / 0\n', 'ZeroDivisionError: division by zero'),
    ('x = 1\n', 'AttributeError'),
  ],
)
def test_a_file_that_returns_no_config_is_refused(source, message, tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(source)
  with pytest.raises(UserError, match=message):
    config_lib.load_file(str(path))


@pytest.mark.parametrize(
  ('key', 'hint'),
  [
    ('train.batchsize', r'unknown key train\.batchsize: did you mean train\.batch_size\?'),
    ('model.conv1.widht', r'unknown key model\.conv1\.widht'),
    ('schedule', 'unknown key schedule'),
  ],
)
def test_a_file_that_sets_an_unknown_key_is_refused(key, hint, tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(
    'from alexnet_jax.config import recipes\n\n'
    f"def get_config():\n  config = recipes.get('paper')\n  config.{key} = 64\n  return config\n"
  )
  with pytest.raises(UserError, match=hint):
    config_lib.load_file(str(path))


def test_json_keeps_values_and_types():
  config = recipes.get('torchvision')
  back = config_lib.from_json(config_lib.to_json(config))
  assert repr(config_lib.flatten(back)) == repr(config_lib.flatten(config))


@pytest.mark.parametrize('recipe', recipes.RECIPES)
def test_a_config_without_the_exif_orientation_ignores_it(recipe):
  """New runs of `paper` turn photographs upright; the recipes of other programs ignore EXIF data."""
  config = recipes.get(recipe)
  assert config.data.canvas.exif_orientation == (recipe == 'paper')
  assert config_lib.from_json(config_lib.to_json(config)) == config
  values = json.loads(config_lib.to_json(config))
  del values['data']['canvas']['exif_orientation']
  assert config_lib.from_json(json.dumps(values)).data.canvas.exif_orientation is False
