"""If an optional package is missing, the message names the extra that installs it and what needs it."""

import json
import sys

import pytest

from alexnet_jax.errors import UserError
from alexnet_jax.utils.optional_import import import_module, import_tensorflow


def test_an_installed_module_is_returned():
  assert import_module('json', 'data', 'the test') is json


@pytest.mark.parametrize(
  ('file', 'remedy'),
  [
    ('alexnet_jax-0.1.0.dist-info/WHEEL', "pip install 'alexnet_jax[data]'"),
    ('alexnet_jax.egg-info/PKG-INFO', "pip install '.[data]' in the checkout"),
    ('other/file', "pip install '.[data]' in the checkout"),
  ],
)
def test_a_missing_module_is_named_with_its_extra_and_purpose(monkeypatch, tmp_path, file, remedy):
  """pip finds the name of the package only where the package is installed, not where it was only built."""
  path = tmp_path / file
  path.parent.mkdir()
  path.write_text('Name: alexnet_jax\n')
  monkeypatch.setattr(sys, 'path', [str(tmp_path)])
  monkeypatch.setitem(sys.modules, 'tensorflow', None)
  with pytest.raises(UserError) as error:
    import_tensorflow('the test')
  message = str(error.value)
  assert message.startswith('the test needs tensorflow (') and message.endswith(f'): {remedy}')
