"""If an optional package is missing, the message names the extra that installs it and what needs it."""

from importlib import metadata
import json
import sys

import pytest

from alexnet_jax.errors import UserError
from alexnet_jax.utils import optional_import
from alexnet_jax.utils.optional_import import import_module, import_tensorflow


def test_an_installed_module_is_returned():
  assert import_module('json', 'data', 'the test') is json


@pytest.mark.parametrize(
  ('installed', 'remedy'),
  [(True, "pip install 'alexnet_jax[data]'"), (False, "pip install '.[data]' in the checkout")],
)
def test_a_missing_module_is_named_with_its_extra_and_purpose(monkeypatch, installed, remedy):
  """pip finds the name of the package only where the package is installed."""

  def distribution(name):
    if not installed:
      raise metadata.PackageNotFoundError(name)

  monkeypatch.setattr(optional_import.metadata, 'distribution', distribution)
  monkeypatch.setitem(sys.modules, 'tensorflow', None)
  with pytest.raises(UserError) as error:
    import_tensorflow('the test')
  message = str(error.value)
  assert message.startswith('the test needs tensorflow (') and message.endswith(f'): {remedy}')
