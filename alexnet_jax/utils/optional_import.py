"""Imports of optional packages, with an error that names the package to install."""

import contextlib
import importlib
from typing import Any

from alexnet_jax.errors import UserError


def import_module(name: str, package: str, need: str) -> Any:
  """Imports an optional module.

  Args:
    name: name of the module.
    package: the package to install, for the error message.
    need: the setting that requires the module, for the error message.

  Raises:
    UserError: the module is not installed.
  """
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise UserError(f'{need} needs {name} ({error}): pip install {package}') from error


def import_tensorflow(need: str) -> Any:
  """Imports TensorFlow and hides the GPUs from it, since JAX uses them.

  Args:
    need: the setting that requires TensorFlow, for the error message.

  Raises:
    UserError: TensorFlow is not installed.
  """
  tf = import_module('tensorflow', 'tensorflow-cpu', need)
  with contextlib.suppress(RuntimeError):  # TensorFlow is initialised already
    tf.config.set_visible_devices([], 'GPU')
  return tf
