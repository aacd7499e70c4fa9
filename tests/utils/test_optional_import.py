"""If an optional package is missing, the message names the package and what needs it."""

import json
import sys

import pytest

from alexnet_jax.errors import UserError
from alexnet_jax.utils.optional_import import import_module, import_tensorflow


def test_an_installed_module_is_returned():
  assert import_module('json', 'json', 'the test') is json


def test_a_missing_module_is_named_with_its_package_and_purpose(monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorflow', None)
  with pytest.raises(
    UserError, match=r'^the test needs tensorflow .*: pip install tensorflow-cpu$'
  ):
    import_tensorflow('the test')
