"""The suggestion for an unknown name is the most similar known name, or the list of known names."""

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
def test_suggestions(name, known, expected):
  assert suggest(name, known, 'see --helpfull') == expected
