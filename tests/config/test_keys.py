"""Every config key is declared once, and its meaning is unique and in whole sentences."""

import collections
import re

import pytest

from alexnet_jax import config as config_lib
from alexnet_jax import models
from alexnet_jax.config import keys, recipes
from alexnet_jax.utils import schema

PAPER = recipes.get('paper')
DECLARED = dict(keys.flatten(PAPER))


def test_every_key_is_declared():
  assert set(DECLARED) == set(config_lib.flatten(PAPER))


def test_defaults_are_those_of_the_recipe_paper():
  config = keys.defaults()
  config.note = PAPER.note
  assert config_lib.to_json(config) == config_lib.to_json(PAPER)
  assert [row['parameters'] for row in models.layer_table(config.model)][-1] == 4_097_000


def test_every_default_is_allowed():
  flat = config_lib.flatten(PAPER)
  assert [name for name, key in DECLARED.items() if not key.accepts(flat[name])] == []


def test_meanings_are_whole_sentences():
  for name, key in DECLARED.items():
    assert re.fullmatch(r'[A-Z].*\.', key.meaning), name


def test_no_two_keys_have_the_same_meaning():
  """Keys of layers are declared once for each kind of layer."""
  meanings = collections.Counter(key.meaning for _, key in schema.flatten(keys.KEYS))
  assert [meaning for meaning, number in meanings.items() if number > 1] == []


@pytest.mark.parametrize('mesh', [(0, 0), (1, 2)])
def test_valid_meshes_are_accepted(mesh):
  assert DECLARED['mesh'].accepts(mesh)


@pytest.mark.parametrize('mesh', [(1,), (1, 2, 3), ('2x1',), (-1, 1), (1.0, 2.0), (True, 1)])
def test_invalid_meshes_are_refused(mesh):
  assert not DECLARED['mesh'].accepts(mesh)
