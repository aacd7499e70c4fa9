"""Imports of optional packages, with an error that names the extra to install."""

import contextlib
import importlib
from importlib import metadata
from typing import Any

from alexnet_jax.errors import UserError

_DISTRIBUTION = 'alexnet_jax'


def import_module(name: str, extra: str, need: str) -> Any:
  """Imports a module of a package that an extra installs.

  Args:
    name: name of the module.
    extra: the extra in pyproject.toml that installs it, for the error message.
    need: the setting that requires the module, for the error message.

  Raises:
    UserError: the module is not installed.
  """
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise UserError(f'{need} needs {name} ({error}): {install_command(extra)}') from error


def install_command(extra: str) -> str:
  """Returns the command that installs an extra, for error messages.

  A checkout that is not installed is named by its path, because pip would search an index for the name. The
  folder alexnet_jax.egg-info, which a build leaves in the checkout, is no installation: it has no file WHEEL.
  """
  if any(found.read_text('WHEEL') for found in metadata.distributions(name=_DISTRIBUTION)):
    return f"pip install '{_DISTRIBUTION}[{extra}]'"
  return f"pip install '.[{extra}]' in the checkout"


def import_tensorflow(need: str) -> Any:
  """Imports TensorFlow and hides the GPUs from it, since JAX uses them.

  Args:
    need: the setting that requires TensorFlow, for the error message.

  Raises:
    UserError: TensorFlow is not installed.
  """
  tf = import_module('tensorflow', 'data', need)
  with contextlib.suppress(RuntimeError):  # TensorFlow is initialised already
    tf.config.set_visible_devices([], 'GPU')
  return tf
