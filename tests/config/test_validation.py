"""Checks of keys that depend on each other, and of the config of a resumed run."""

import contextlib
import re

from helpers import get
import pytest
from tiny import ROOT

from alexnet_jax import config as config_lib
from alexnet_jax import models
from alexnet_jax.config import recipes
from alexnet_jax.config.io import flatten
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
      'normalisation cannot follow a fully connected layer',
    ),
    (
      'original',
      {'parallelism': 'owt', 'model__fc6__then': ('act', 'norm')},
      'normalisation cannot follow a fully connected layer',
    ),
    ('paper', {'model__input_size': 257}, 'input_size=257 is larger than .*canvas.size=256'),
    ('paper', {'model__fc6__then': ('act', *5 * ('dropout',))}, 'a tuple of at most 5 of'),
    ('paper', {'model__lrn__k': 0.0}, 'config.model.lrn.k=0.0: must be'),
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


def documented_keys():
  """Returns the keys and the groups, with a dot at the end, that docs/reliability.md lists as free."""
  text = (ROOT / 'docs' / 'reliability.md').read_text()
  listed = re.search(r'may differ from the first .* keys: (.*?)\. Any other', text, re.DOTALL)[1]
  found = []
  for part in listed.split(';'):
    names = re.findall(r'`(\w+)`', part)
    if 'in the group' in part:
      found += [f'{names[0]}.{name}' for name in names[1:]]
    else:
      found += [f'{name}.' if 'everything' in part else name for name in names]
  return tuple(found)


def other_value(value):
  if isinstance(value, bool):
    return not value
  return value + {str: 'x', tuple: (1,)}.get(type(value), 1)


def test_the_documented_keys_may_differ_in_a_resumed_run_and_no_others():
  """Keys of the network are left out, because those of unused layers may differ too."""
  old, documented, free = get(), documented_keys(), []
  keys = {key: value for key, value in flatten(old).items() if not key.startswith('model.')}
  for key, value in keys.items():
    with contextlib.suppress(UserError):
      check_same_run(old, recipes.apply(get(), {key: other_value(value)}), 'WORKDIR')
      free.append(key)
  assert free == [key for key in keys if key.startswith(documented)] and len(free) > 20
  assert all(any(key.startswith(name) for key in keys) for name in documented)


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
