"""A resumed run must have the config of the workdir and the data of the checkpoint."""

import contextlib

from ml_collections import FrozenConfigDict
import numpy as np
from PIL import Image
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
  for config in (frozen(optim__rate=0.5), frozen()):
    run_config.check(tmp_path, config, None)
    run_config.write(tmp_path, config)
  assert config_lib.load_workdir(tmp_path).optim.rate == 0.01


def test_a_resumed_run_must_have_the_same_config(tmp_path):
  run_config.write(tmp_path, frozen())
  (tmp_path / 'checkpoints' / '3').mkdir(parents=True)
  with pytest.raises(UserError, match=r'optim\.rate: 0\.01 there, 0\.5 here'):
    run_config.check(tmp_path, frozen(optim__rate=0.5), 3)
  run_config.check(tmp_path, frozen(train__log_every=7), 3)


def test_a_checkpoint_that_a_process_does_not_see_is_in_another_folder(tmp_path, monkeypatch):
  """It is not damaged, as its missing manifest would suggest."""
  monkeypatch.setattr(run_config, '_VISIBLE_WITHIN', 1)
  with pytest.raises(UserError, match='is not the same folder on every process'):
    run_config.check(tmp_path, frozen(), 3)


def test_the_config_is_compared_before_the_data_are_opened(tmp_path):
  run_config.write(tmp_path, frozen(model__num_classes=7))
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
    ({'config': frozen(optim__rate=0.5)}, r'optim\.rate: 0\.5 there, 0\.01 here'),
    ({'form': 'jpeg'}, 'read as encoded images here, .* trained on JPEG canvases: use .*cache_mib'),
    ({'class_names': ['a']}, "classes: \\['a'\\] there"),
    ({'checksums': {'validation': '00000000' * 18}}, 'has changed; .*and 15 more'),
  ],
)
def test_a_resumed_run_must_have_the_same_config_and_data_as_its_checkpoint(
  tmp_path, change, message
):
  config = frozen()
  with contextlib.closing(open_dataset(config.data, config.seed)) as dataset:
    dataset.preload()
    meta = {
      'config': config,
      'class_names': list(dataset.class_names),
      'num_train': dataset.num_train,
      'num_validation': dataset.num_validation,
      'form': dataset.form,
      'checksums': dataset.checksums(),
    } | change
    if message is None:
      run_config.check_checkpoint(tmp_path, config, dataset, meta)
    else:
      with pytest.raises(UserError, match=message):
        run_config.check_checkpoint(tmp_path, config, dataset, meta)


def test_a_refused_command_leaves_the_config_of_the_run(tmp_path):
  """Later modes, such as eval, read the images that config.json names."""
  rng = np.random.default_rng(0)
  for folder, number in (('old', 2), ('new', 3)):
    for path in (tmp_path / folder / name / f'{i}.png' for name in 'ab' for i in range(number)):
      path.parent.mkdir(parents=True, exist_ok=True)
      Image.fromarray(rng.integers(0, 255, (80, 80, 3), np.uint8)).save(path)
  old, new = (
    tiny_config(
      data__source=f'folder:{tmp_path / name}',
      data__holdout=0.0,
      train__steps=1,
      model__layers=('conv1', 'fc6', 'fc8'),
    )
    for name in ('old', 'new')
  )
  train(old, tmp_path / 'run')
  with pytest.raises(UserError, match='training images: 4 there, 6 here'):
    train(new, tmp_path / 'run')
  assert config_lib.load_workdir(tmp_path / 'run').data.source == old.data.source
