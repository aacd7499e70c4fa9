"""A declared key accepts exactly its allowed values, and the error names them."""

import math

import pytest

from alexnet_jax.errors import UserError
from alexnet_jax.utils import schema
from alexnet_jax.utils.schema import LARGEST, Key

RATE = Key(0.5, 'A share.', minimum=0, below=1)
SIZE = Key(3, 'A side.', unit='pixels', minimum=1, maximum=8)
SCHEMA = {
  'rate': RATE,
  'layer': {'size': SIZE, 'kind': Key('a', 'A kind.', choices=('a', 'b'))},
}


@pytest.mark.parametrize(
  ('key', 'good', 'bad'),
  [
    (RATE, (0, 0.0, 0.99), (-0.1, 1.0, math.nan, math.inf, '0.5', None, True)),
    (SIZE, (1, 8), (0, 9, 3.0, True, '3')),
    (Key(1, ''), (-LARGEST, LARGEST), (LARGEST + 1, -LARGEST - 1, 10**400)),
    (Key(1.0, '', above=0, maximum=2), (0.1, 2), (0.0, 2.1)),
    (Key('x', ''), ('', 'anything'), (1, None, ('x',))),
    (Key('a', '', choices=('a', 'b')), ('a', 'b'), ('c', '', 1)),
    (Key(1, '', choices=(1, 2)), (1, 2), (3, True, '1')),
    (Key(True, ''), (True, False), (1, 0, 'True')),
    (Key((), '', valid=lambda value: len(value) == 2), ((1, 2), [1, 2]), ((), 'ab', 2)),
    (Key(0, '', valid=lambda value: value != 1), (0, 2), (1, LARGEST + 1)),
  ],
)
def test_a_key_accepts_only_allowed_values(key, good, bad):
  assert [value for value in good if not key.accepts(value)] == []
  assert [value for value in bad if key.accepts(value)] == []


@pytest.mark.parametrize(
  ('key', 'words'),
  [
    (RATE, 'a number of at least 0 and less than 1'),
    (SIZE, 'a whole number from 1 to 8 (pixels)'),
    (Key(1, ''), 'a whole number'),
    (Key(1.0, '', above=0), 'a number of more than 0'),
    (Key('', '', choices=('', 'b')), "one of '', b"),
    (Key(False, ''), 'True or False'),
    (Key('', ''), 'text'),
    (Key((), '', expected='a pair'), 'a pair'),
  ],
)
def test_allowed_values_are_described_in_words(key, words):
  assert key.allowed == words


def test_defaults_and_names():
  assert schema.defaults(SCHEMA) == {'rate': 0.5, 'layer': {'size': 3, 'kind': 'a'}}
  assert [name for name, _ in schema.flatten(SCHEMA)] == ['rate', 'layer.size', 'layer.kind']
  schema.check(schema.defaults(SCHEMA) | {'more': None}, SCHEMA, 'config')


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ({'rate': 2.0}, 'config.rate=2.0: must be a number of at least 0 and less than 1'),
    ({'layer': {'size': 9}}, 'config.layer.size=9: must be a whole number from 1 to 8 (pixels)'),
    ({'layer': {'kind': 'c'}}, "config.layer.kind='c': must be one of a, b"),
    ({'layer': 3}, 'config.layer=3: must be a group of the keys size, kind'),
    ({'rate': None}, 'config.rate=None: must be a number'),
  ],
)
def test_an_error_names_the_key_and_its_allowed_values(values, message):
  whole = schema.defaults(SCHEMA)
  for key, value in values.items():
    whole[key] = whole[key] | value if isinstance(value, dict) else value
  with pytest.raises(UserError) as raised:
    schema.check(whole, SCHEMA, 'config')
  assert str(raised.value).startswith(message)


def test_a_missing_key_is_an_error():
  with pytest.raises(UserError, match=r'lacks the key config\.layer\.kind: start from a recipe'):
    schema.check({'rate': 0.0, 'layer': {'size': 1}}, SCHEMA, 'config')
