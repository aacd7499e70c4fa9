"""A resumed run must have the config of the workdir and the data of the checkpoint."""

import contextlib

from ml_collections import FrozenConfigDict
import pytest
from tiny import tiny_config

from alexnet_jax import config as config_lib
from alexnet_jax.data import open_dataset
from alexnet_jax.errors import UserError
from alexnet_jax.training.loop import train
from alexnet_jax.workdir import run_config


def frozen(**overrides):
  return FrozenConfigDict(tiny_config(**overrides))


def test_a_new_run_replaces_an_old_config(tmp_path):
  run_config.write_or_check(tmp_path, frozen(optim__rate=0.5), resumes=False)
  run_config.write_or_check(tmp_path, frozen(), resumes=False)
  assert config_lib.load_workdir(tmp_path).optim.rate == 0.01


def test_a_resumed_run_must_have_the_same_config(tmp_path):
  run_config.write_or_check(tmp_path, frozen(), resumes=False)
  with pytest.raises(UserError, match=r'optim\.rate: 0\.01 there, 0\.5 here'):
    run_config.write_or_check(tmp_path, frozen(optim__rate=0.5), resumes=True)
  run_config.write_or_check(tmp_path, frozen(train__log_every=7), resumes=True)
  assert config_lib.load_workdir(tmp_path).train.log_every == 7


def test_the_config_is_compared_before_the_data_are_opened(tmp_path):
  run_config.write_or_check(tmp_path, frozen(model__num_classes=7), resumes=False)
  other = tiny_config('torchvision', data__source='folder:/nonexistent')
  run_config.check_before_data(tmp_path, other)  # the workdir has no checkpoint yet
  (tmp_path / 'checkpoints' / '3').mkdir(parents=True)
  run_config.check_before_data(tmp_path, tiny_config())  # the data decide the number of classes
  with pytest.raises(UserError, match=r'recipe: .original. there, .torchvision. here'):
    run_config.check_before_data(tmp_path, other)
  with pytest.raises(UserError, match=r'recipe: .original. there, .torchvision. here'):
    train(other, tmp_path)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({}, None),
    ({'num_train': 41}, 'training images: 41 there, 40 here'),
    ({'num_validation': 0}, 'validation images: 0 there, 18 here'),
    ({'class_names': ['a']}, "classes: \\['a'\\] there"),
    ({'checksums': {'validation': '00000000' * 18}}, 'has changed; .*and 15 more'),
  ],
)
def test_a_resumed_run_must_have_the_same_data(tmp_path, change, message):
  config = frozen()
  with contextlib.closing(open_dataset(config.data, config.seed)) as dataset:
    dataset.preload()
    meta = {
      'class_names': list(dataset.class_names),
      'num_train': dataset.num_train,
      'num_validation': dataset.num_validation,
      'checksums': dataset.checksums(),
    } | change
    if message is None:
      run_config.check_same_data(tmp_path, config, dataset, meta)
    else:
      with pytest.raises(UserError, match=message):
        run_config.check_same_data(tmp_path, config, dataset, meta)
