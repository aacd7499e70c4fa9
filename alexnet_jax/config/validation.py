"""Checks of a whole config, and of a config against the run that it resumes."""

import math
import re

from ml_collections import ConfigDict, FrozenConfigDict

from alexnet_jax import models
from alexnet_jax.config.io import flatten
from alexnet_jax.errors import UserError
from alexnet_jax.models.spec import is_layer
from alexnet_jax.steps import augment, optimizer
from alexnet_jax.utils import profiler

# What a resumed run may change; anything else would make it another run (see `check_same_run`).
_FREE = (
    'mesh', 'micro_batches', 'train.epochs', 'train.steps', 'train.log_every', 'train.checkpoint_every',
    'train.diagnose_every', 'train.profile', 'train.until_train_error', 'eval.',
    'data.data_dir', 'data.manual_dir', 'data.devkit', 'data.loader', 'data.threads', 'data.cache_mib',
    'log.', 'note', 'prepare.', 'serve.', 'report.',
)  # fmt: skip


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
    optimizer.validate(config.optim)
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
    profiler.validate(config.train.profile)
    if config.train.diagnose_every < 0:
      raise UserError('config.train.diagnose_every: must be 0 (never) or more')
    if config.train.steps < 0 or (not config.train.steps and config.train.epochs <= 0):
      raise UserError('config.train: set epochs, or steps, to more than 0')
    if not 0 <= config.data.holdout < 1:
      raise UserError(f'config.data.holdout={config.data.holdout}: must be in [0, 1)')
  except (KeyError, AttributeError) as error:
    raise UserError(
      f'the config lacks a key: {error}; start from alexnet_jax.config.recipes'
    ) from None
