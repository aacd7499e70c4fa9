"""The tables of tests/conftest.py that assign tests to the long tier name tests that exist."""


def test_every_pattern_matches_a_test(unused_patterns):
  """A renamed test would otherwise move to the other tier without notice."""
  assert not unused_patterns
