"""Runs for the tests of imports and exports."""

import helpers
import pytest
from tiny import tiny_config


@pytest.fixture(scope='package')
def runs(tmp_path_factory):
  """Two runs, one of which has batch normalisation."""
  folder = tmp_path_factory.mktemp('runs')
  for variant in ('original', 'original+batch_norm'):
    helpers.untrained_run(tiny_config(variant, data__synthetic__classes=6), folder / variant)
  return folder
