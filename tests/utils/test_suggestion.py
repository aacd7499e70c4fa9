"""An unknown name gets the nearest known one, or the list of known ones."""

import pytest

from alexnet_jax.utils.suggestion import suggest

MANY = [f'key{i}' for i in range(100)]


@pytest.mark.parametrize(
  ('name', 'known', 'expected'),
  [
    ('orignal', ('paper', 'original'), 'did you mean original?'),
    ('zzz', ('paper', 'original'), 'choose one of paper, original'),
    ('zzz', MANY, 'see --helpfull'),
    ('kye7', MANY, 'did you mean key7?'),
  ],
)
def test_suggest(name, known, expected):
  assert suggest(name, known, 'see --helpfull') == expected
