"""The shipped configs are found; tests/test_packaging.py finds them in an installed package."""

from tiny import ROOT

from alexnet_jax.utils.shipped import shipped


def test_the_configs_of_the_checkout_are_found():
  assert shipped() == {path.stem: path for path in (ROOT / 'configs').glob('*.py')}
