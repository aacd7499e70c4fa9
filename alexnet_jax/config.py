"""Configs: reading them from files and workdirs, checking them, and telling two apart."""

import importlib.util
import json
import math
import os
import pathlib
import re
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from alexnet_jax import augment, models, optim, profile, recipes
from alexnet_jax.errors import UserError
from alexnet_jax.models.spec import is_layer

FILE = 'config.json'

# What a resumed run may change; anything else would make it another run (see `check_same_run`).
_FREE = (
    'mesh', 'micro_batches', 'train.epochs', 'train.steps', 'train.log_every', 'train.checkpoint_every',
    'train.diagnose_every', 'train.profile', 'train.until_train_error', 'eval.',
    'data.data_dir', 'data.manual_dir', 'data.devkit', 'data.loader', 'data.threads', 'data.cache_mib',
    'log.', 'note', 'prepare.', 'serve.', 'report.',
)  # fmt: skip


def shipped() -> dict[str, pathlib.Path]:
  """The configs that come with the package, by name: `{'quickstart': PATH, ...}`."""
  package = pathlib.Path(__file__).parent
  installed, checkout = package / 'configs', package.parent / 'configs'
  folder = installed if installed.is_dir() else checkout
  return {path.stem: path for path in sorted(folder.glob('*.py')) if path.stem != '__init__'}


def _find(name: str) -> str | pathlib.Path | None:
  """The file that `name` names: its path, or `NAME` or `configs/NAME.py` of a shipped one."""
  if os.path.isfile(name):
    return name
  return shipped().get(name.removeprefix('configs/').removesuffix('.py'))


_POSITIVE = (
  'model.input_size', 'data.canvas.size', 'data.canvas.max_pixels', 'train.batch_size', 'train.log_every',
  'train.checkpoint_every', 'train.keep', 'eval.batch_size', 'micro_batches', 'serve.max_mib',
  'serve.max_pixels',
)  # fmt: skip
_OF_A_LAYER = re.compile(r'model\.\w+\.(size|stride|window)')  # sides in pixels
# Beyond these nobody can mean it, and the arithmetic of indices and of memory ends.
_MOST = {
  'model.input_size': 8192, 'data.canvas.size': 8192, 'train.batch_size': 2**20, 'eval.batch_size': 2**20,
  'seed': 2**63 - 1, 'data.split_seed': 2**63 - 1,
}  # fmt: skip


def load_file(spec: str) -> ConfigDict:
  """The config of `FILE` or `FILE:VARIANT`: calls its `get_config(VARIANT)`.

  Args:
    spec: where FILE is a path, or the name of a shipped config: `quickstart` and
      `configs/quickstart.py` are found from every folder.

  Raises:
    UserError: no such file, or it does not give a config.
  """
  name, _, variant = spec.partition(':')
  path = _find(name)
  if path is None:
    raise UserError(
      f'--config={spec}: there is no file {name}; name one, or one of those shipped: '
      f'{", ".join(shipped())}'
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
  return config


def _tuples(value):
  """JSON has no tuples; configs have no lists."""
  if isinstance(value, dict):
    return {key: _tuples(item) for key, item in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _fill_in(values, defaults):
  """`values`, with those of `defaults` for keys that it lacks, at every depth."""
  both = isinstance(values, dict) and isinstance(defaults, dict)
  if not both:
    return values
  return defaults | {key: _fill_in(value, defaults.get(key)) for key, value in values.items()}


def from_json(text: str) -> ConfigDict:
  """A config from the JSON that `to_json` wrote; raises ValueError for anything else.

  Keys that came after it was written take their values in its recipe, which do what was done before there
  was a choice.
  """
  values = json.loads(text)
  if not isinstance(values, dict):
    raise ValueError('it holds no config')
  try:
    defaults = recipes.get(str(values.get('recipe')))
  except UserError:  # of a config file that names its own
    defaults = recipes.paper()
  return ConfigDict(_fill_in(_tuples(values), defaults.to_dict()))


def to_json(config: ConfigDict | FrozenConfigDict) -> str:
  """A config as indented JSON."""
  return json.dumps(config.to_dict(), indent=2, sort_keys=True)


def load_workdir(workdir: str | os.PathLike) -> ConfigDict:
  """The config of the run in `workdir`.

  Raises:
    UserError: there is none.
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
  """`{'model.width': 1.0, ...}`."""
  flat = {}

  def walk(prefix, value):
    if isinstance(value, dict):
      for key, item in value.items():
        walk(f'{prefix}.{key}' if prefix else key, item)
    else:
      flat[prefix] = value

  walk('', config.to_dict())
  return flat


def _kind(source: str) -> str:
  return source.partition(':')[0]


def check_same_run(old: ConfigDict, new: ConfigDict | FrozenConfigDict, workdir) -> None:
  """Raises UserError where `new` cannot continue the run that `old` started in `workdir`.

  It may differ in mesh, train.{epochs, steps, log_every, checkpoint_every, diagnose_every, profile,
  until_train_error}, eval, the place of the data, threads and loggers, and in layers that neither
  network has.
  """
  used = {*old.model.layers, *new.model.layers}
  idle = tuple(
    f'model.{name}.'
    for name, room in (*old.model.items(), *new.model.items())
    if is_layer(room) and name not in used
  )
  old, new = flatten(old), flatten(new)
  differences = []
  for key in sorted(old.keys() | new.keys()):
    before, after = old.get(key, 'absent'), new.get(key, 'absent')
    if before == after or key.startswith((*_FREE, *idle)):
      continue
    if (
      key == 'data.source'
      and _kind(before) == _kind(after)
      and _kind(before) in ('folder', 'store')
    ):
      continue  # the same images may have moved; classes and counts are compared on restore
    differences.append(f'{key}: {before!r} there, {after!r} here')
  if differences:
    raise UserError(
      f'--workdir={workdir} holds a run of another config ({"; ".join(differences)}): '
      'choose another workdir, or make them equal to resume it'
    )


def validate(config: ConfigDict | FrozenConfigDict) -> None:
  """Raises UserError for the first thing in `config` that cannot be."""
  try:
    flat = flatten(config)
    for key in (*_POSITIVE, *filter(_OF_A_LAYER.fullmatch, flat)):
      if flat[key] < 1:
        raise UserError(f'config.{key}={flat[key]}: must be at least 1')
    for key, value in flat.items():
      if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f'config.{key}={value}: must be finite')
      most = 8192 if _OF_A_LAYER.fullmatch(key) else _MOST.get(key, 2**31 - 1)
      if isinstance(value, int) and abs(value) > most:
        raise UserError(f'config.{key}={value}: must be at most {most}')
    models.validate(config.model)
    optim.validate(config.optim)
    if config.micro_batches > 1 and config.model.norm == 'batch':
      raise UserError(
        f'config.micro_batches={config.micro_batches}: batch normalisation needs the whole batch at once'
      )
    augment.validate(config)
    for layer, _ in config.optim.layer_decay:
      if layer not in config.model.layers:
        raise UserError(
          f'config.optim.layer_decay names {layer!r}; layers here: {", ".join(config.model.layers)}'
        )
    for layer in filter(None, config.init_layers.split(',')):
      if layer not in config.model.layers:
        raise UserError(
          f'config.init_layers names {layer!r}; layers here: {", ".join(config.model.layers)}'
        )
    if not 0 <= config.train.until_train_error < 100:
      raise UserError('config.train.until_train_error: must be in [0, 100) %')
    if min(config.report.images, config.report.neighbours, config.report.train_images) < 1:
      raise UserError('config.report: images, neighbours and train_images must be at least 1')
    if not 0 <= config.report.bits <= 1024:
      raise UserError(f'config.report.bits={config.report.bits}: must be 0 (no codes) to 1024')
    if config.eval.weights not in ('last', 'ema'):
      raise UserError(f'config.eval.weights={config.eval.weights!r}: choose last or ema')
    profile.validate(config.train.profile)
    if config.train.diagnose_every < 0:
      raise UserError('config.train.diagnose_every: must be 0 (never) or more')
    if config.train.steps < 0 or (not config.train.steps and config.train.epochs <= 0):
      raise UserError('config.train: set epochs, or steps, to more than 0')
    if not 0 <= config.data.holdout < 1:
      raise UserError(f'config.data.holdout={config.data.holdout}: must be in [0, 1)')
  except (KeyError, AttributeError) as error:
    raise UserError(f'the config lacks a key: {error}; start from alexnet_jax.recipes') from None


def total_steps(config: ConfigDict | FrozenConfigDict, num_train: int) -> int:
  """Steps of the whole run over `num_train` images: `train.steps`, else enough for `train.epochs`."""
  examples = config.train.epochs * num_train
  return config.train.steps or max(1, math.ceil(examples / config.train.batch_size))
