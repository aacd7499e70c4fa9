"""Reading configs from files and from workdirs, and converting them to and from JSON."""

import importlib.util
import json
import os
import pathlib
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict, FrozenConfigDict

from alexnet_jax.config import keys, recipes
from alexnet_jax.errors import UserError
from alexnet_jax.utils.shipped import shipped
from alexnet_jax.utils.suggestion import suggest

FILE = 'config.json'
# Keys that were added later, with the behaviour before; the recipes have other values for new runs.
_BEFORE = {'data.canvas.exif_orientation': False}
_NO_KEY = 'python main.py --config=configs/alexnet.py --helpfull lists the keys'


def _find(name: str) -> str | pathlib.Path | None:
  """Returns the file `name`, or the shipped config that is written `NAME` or `configs/NAME.py`, else None."""
  if os.path.isfile(name):
    return name
  return shipped().get(name.removeprefix('configs/').removesuffix('.py'))


def load_file(spec: str) -> ConfigDict:
  """Loads the config of `FILE` or `FILE:VARIANT`, which is what its `get_config(VARIANT)` returns.

  Args:
    spec: FILE is a path, or the name of a shipped config: `quickstart` and `configs/quickstart.py` are
      found from every folder.

  Raises:
    UserError: there is no such file, it does not return a config, or it sets an unknown key.
  """
  name, _, variant = spec.partition(':')
  path = _find(name)
  if path is None:
    stem = pathlib.Path(name).stem
    raise UserError(
      f'--config={spec}: there is no file {name}; among the shipped configs, {suggest(stem, shipped())}'
    )
  module_spec = importlib.util.spec_from_file_location('experiment_config', path)
  if module_spec is None or module_spec.loader is None:
    raise UserError(f'--config={spec}: {path} is not a Python file')
  module = importlib.util.module_from_spec(module_spec)
  try:
    module_spec.loader.exec_module(module)
    config = module.get_config(variant) if variant else module.get_config()
  except UserError as error:
    raise UserError(f'--config={spec}: {error}') from error
  except Exception as error:
    message = ' '.join(str(error).split())
    raise UserError(f'--config={spec} failed: {type(error).__name__}: {message}') from error
  if not isinstance(config, ConfigDict):
    raise UserError(f'--config={spec}: get_config must return a ConfigDict')
  _check_names(spec, config)
  return config


def _check_names(spec: str, config: ConfigDict) -> None:
  """Raises UserError for a key that the package does not know, which would have no effect."""
  if not isinstance(config.get('model'), ConfigDict):
    return  # `validate` reports it
  known = [name for name, _ in keys.flatten(config)]
  for name in flatten(config):
    if name not in known:
      raise UserError(
        f'--config={spec} sets the unknown key {name}: {suggest(name, known, _NO_KEY)}'
      )


def _tuples(value):
  """Returns `value` with tuples for lists, at every depth: JSON has no tuples, and configs have no lists."""
  if isinstance(value, dict):
    return {key: _tuples(item) for key, item in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _fill_in(values, defaults):
  """Returns `values`, with the values of `defaults` for missing keys, at every depth."""
  both = isinstance(values, dict) and isinstance(defaults, dict)
  # A last layer, which has no features, may be named like a hidden layer of the recipe.
  if not both or ('features' in defaults and 'features' not in values):
    return values
  return defaults | {key: _fill_in(value, defaults.get(key)) for key, value in values.items()}


def from_json(text: str) -> ConfigDict:
  """Reads a config from the JSON that `to_json` wrote.

  A key that was added to the package after the JSON was written takes a value with which the package does
  what it did before: that of the config's recipe, or of `_BEFORE`.

  Raises:
    ValueError: the text is not JSON, or not a JSON object.
  """
  values = json.loads(text)
  if not isinstance(values, dict):
    raise ValueError('it does not hold a config')
  try:
    defaults = recipes.get(str(values.get('recipe')))
  except UserError:  # The name is that of a config file, such as `cifar10:relu`.
    defaults = keys.defaults()
  defaults.update_from_flattened_dict(_BEFORE)
  return ConfigDict(_fill_in(_tuples(values), defaults.to_dict()))


def to_json(config: ConfigDict | FrozenConfigDict) -> str:
  """Returns a config as indented JSON."""
  return json.dumps(config.to_dict(), indent=2, sort_keys=True)


def load_workdir(workdir: str | os.PathLike) -> ConfigDict:
  """Reads the config of the run in `workdir`.

  Raises:
    UserError: there is no config, or it cannot be read.
  """
  path = pathlib.Path(workdir) / FILE
  try:
    return from_json(path.read_text())
  except FileNotFoundError:
    raise UserError(
      f'--workdir={workdir} holds no {FILE}: name the folder of a run, or give --config'
    ) from None
  except (OSError, ValueError) as error:
    raise UserError(
      f'{path} cannot be read: {error}; restore it or start another workdir'
    ) from None


def flatten(config: ConfigDict | FrozenConfigDict) -> dict[str, Any]:
  """Returns the values of a config by dotted key: `{'model.width': 1.0, ...}`."""
  return flatten_dict(_tuples(config.to_dict()), sep='.')
