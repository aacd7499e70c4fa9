"""Checks of keys that depend on each other, and of the config of a resumed run."""

from helpers import get
import pytest

from alexnet_jax import config as config_lib
from alexnet_jax import models
from alexnet_jax.config.validation import check_same_run
from alexnet_jax.errors import UserError


@pytest.mark.parametrize('key', ['conv1.size', 'conv2.stride', 'pool.window', 'lrn.size'])
@pytest.mark.parametrize('value', [0, 10**6])
def test_invalid_sizes_in_pixels_are_refused(key, value):
  config = get(**{f'model__{key.replace(".", "__")}': value})
  message = rf'config\.model\.{key}={value}: must be a whole number from 1 to 8192'
  with pytest.raises(UserError, match=message):
    config_lib.validate(config)


def test_a_kernel_larger_than_its_input_is_refused():
  config = get(model__conv2__size=64)
  with pytest.raises(UserError, match='the maps at conv2 have no pixels'):
    models.layer_table(config.model)


@pytest.mark.parametrize(
  ('variant', 'overrides', 'message'),
  [
    ('paper+batch_norm', {'micro_batches': 2}, 'batch normalisation needs the whole batch'),
    (
      'owt+batch_norm',
      {'parallelism': 'owt', 'model__fc6__then': ('act', 'norm')},
      'batch normalisation cannot follow a fully connected layer',
    ),
    ('paper', {'model__input_size': 257}, 'input_size=257 is larger than .*canvas.size=256'),
    ('paper', {'train__epochs': 0.0}, 'set it, or config.train.steps, to more than 0'),
    ('paper', {'init_layers': 'conv1,conv9'}, "config.init_layers names 'conv9'"),
    ('paper', {'optim__layer_decay': (('fc9', 1.0),)}, "config.optim.layer_decay names 'fc9'"),
    ('paper', {'optim__layer_rates': (('fc9', 1.0, 0.0),)}, "layer_rates names 'fc9'"),
  ],
)
def test_contradictory_keys_are_refused(variant, overrides, message):
  with pytest.raises(UserError, match=message):
    config_lib.validate(get(variant, **overrides))


def test_a_length_in_steps_needs_no_epochs():
  config_lib.validate(get(train__epochs=0.0, train__steps=1))


def test_a_config_with_a_missing_group_is_refused():
  config = get()
  del config.model
  with pytest.raises(UserError, match=r'the config lacks config\.model'):
    config_lib.validate(config)


@pytest.mark.parametrize(
  'overrides',
  [
    {'train__epochs': 1.0, 'eval__views': 1, 'mesh': (1, 1), 'note': 'other'},
    {'model__conv6__std': 1.0},  # a layer that the network does not use
    {'data__source': 'store:elsewhere', 'data__max_bad_share': 0.5},
  ],
)
def test_keys_that_may_differ_in_a_resumed_run(overrides):
  base = {'data__source': 'store:here'}
  check_same_run(get(**base), get(**(base | overrides)), 'WORKDIR')


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'optim__rate': 0.5}, r'optim\.rate: 0\.01 there, 0\.5 here'),
    ({'data__source': 'folder:here'}, r'data\.source'),
    ({'model__conv1__std': 1.0}, r'model\.conv1\.std'),
  ],
)
def test_other_keys_must_be_equal_in_a_resumed_run(overrides, message):
  base = {'data__source': 'store:here'}
  with pytest.raises(UserError, match=message):
    check_same_run(get(**base), get(**(base | overrides)), 'WORKDIR')
