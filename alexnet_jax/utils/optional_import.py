"""Imports of optional packages, with an error that names the package to install."""

import contextlib
import importlib
from typing import Any

from alexnet_jax.errors import UserError


def import_module(name: str, package: str, need: str) -> Any:
  """Imports an optional module.

  Raises:
    UserError: it is not installed; the message names `need`, and `package` to install.
  """
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise UserError(f'{need} needs {name} ({error}): pip install {package}') from error


def import_tensorflow(need: str) -> Any:
  """Imports tensorflow and keeps it off the GPU, which is JAX's; raises as `import_module`."""
  tf = import_module('tensorflow', 'tensorflow-cpu', need)
  with contextlib.suppress(RuntimeError):  # initialised by somebody else: too late to change
    tf.config.set_visible_devices([], 'GPU')
  return tf
