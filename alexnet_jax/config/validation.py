"""The check of a whole config, and of a config against the run that it resumes."""

from ml_collections import ConfigDict, FrozenConfigDict

from alexnet_jax import models
from alexnet_jax.config.io import flatten
from alexnet_jax.config.keys import KEYS
from alexnet_jax.errors import UserError
from alexnet_jax.models.spec import is_dense, is_layer, operations
from alexnet_jax.utils import schema

# Keys, or prefixes of keys, in which a resumed run may differ from the run that it resumes.
_FREE = (
    'mesh', 'micro_batches', 'train.epochs', 'train.steps', 'train.log_every', 'train.checkpoint_every',
    'train.diagnose_every', 'train.profile', 'train.until_train_error', 'train.early_stopping', 'eval.',
    'data.data_dir', 'data.manual_dir', 'data.devkit', 'data.loader', 'data.threads', 'data.cache_mib',
    'data.max_bad_share', 'log.', 'note', 'prepare.', 'serve.', 'report.',
)  # fmt: skip


def _kind(source: str) -> str:
  """Returns the kind of a source, such as `store` for `store:PATH`."""
  return source.partition(':')[0]


def check_same_run(old: ConfigDict, new: ConfigDict | FrozenConfigDict, workdir) -> None:
  """Checks that a run with config `new` may resume the run that `old` started in `workdir`.

  The configs may differ in the keys of `_FREE` (mesh, length of training, logging, evaluation, data paths
  and so on), in layers that neither network uses, and in the path of a folder or store of images.

  Raises:
    UserError: they differ in another key; the message lists each key with both values.
  """
  used = {*old.model.layers, *new.model.layers}
  unused = tuple(
    f'model.{name}.'
    for name, entry in (*old.model.items(), *new.model.items())
    if is_layer(entry) and name not in used
  )
  old, new = flatten(old), flatten(new)
  differences = []
  for key in sorted(old.keys() | new.keys()):
    before, after = old.get(key, 'absent'), new.get(key, 'absent')
    if before == after or key.startswith((*_FREE, *unused)):
      continue
    if (
      key == 'data.source'
      and _kind(before) == _kind(after)
      and _kind(before) in ('folder', 'store')
    ):
      continue  # The images may have moved; restoring a checkpoint compares classes and counts.
    differences.append(f'{key}: {before!r} there, {after!r} here')
  if differences:
    raise UserError(
      f'--workdir={workdir} holds a run of another config ({"; ".join(differences)}): '
      'choose another workdir, or make the configs equal to resume that run'
    )


def _check_micro_batches(config: ConfigDict | FrozenConfigDict) -> None:
  if config.micro_batches > 1 and config.model.norm == 'batch':
    raise UserError(
      f'config.micro_batches={config.micro_batches}: batch normalisation needs the whole batch at '
      'once; set it to 1'
    )


def _check_crop(config: ConfigDict | FrozenConfigDict) -> None:
  size, canvas = config.model.input_size, config.data.canvas.size
  if size > canvas:
    raise UserError(
      f'config.model.input_size={size} is larger than config.data.canvas.size={canvas}: crops are '
      'cut from canvases'
    )


def _check_layer_names(config: ConfigDict | FrozenConfigDict) -> None:
  """Checks that keys which name layers name those of the network."""
  named = {
    'optim.layer_decay': [layer for layer, _ in config.optim.layer_decay],
    'optim.layer_rates': [layer for layer, *_ in config.optim.layer_rates],
    'init_layers': list(filter(None, config.init_layers.split(','))),
  }
  for key, layers in named.items():
    for layer in layers:
      if layer not in config.model.layers:
        known = ', '.join(config.model.layers)
        raise UserError(
          f'config.{key} names {layer!r}, which the network lacks: choose among {known}'
        )


def _check_parallelism(config: ConfigDict | FrozenConfigDict) -> None:
  """Checks that no normalisation follows units that are spread over devices."""
  model = config.model
  if config.parallelism != 'owt' or model.norm == 'none':
    return
  for layer in model.layers:
    if is_dense(layer) and 'norm' in operations(model, layer):
      raise UserError(
        f'config.model.{layer}.then={model[layer].then}: with parallelism=owt normalisation cannot follow a '
        'fully connected layer; leave `norm` out, or use parallelism=towers'
      )


def _check_length(config: ConfigDict | FrozenConfigDict) -> None:
  if not config.train.steps and not config.train.epochs:
    raise UserError('config.train.epochs=0: set it, or config.train.steps, to more than 0')


def validate(config: ConfigDict | FrozenConfigDict) -> None:
  """Checks a whole config: each key by its declaration, and keys that depend on each other.

  Raises:
    UserError: a key is missing, has a value that is not allowed, or contradicts another key.
  """
  schema.check(config, KEYS, 'config')
  if 'model' not in config:
    raise UserError(
      'the config lacks config.model: start from a recipe of alexnet_jax.config.recipes'
    )
  models.validate(config.model)
  _check_micro_batches(config)
  _check_crop(config)
  _check_layer_names(config)
  _check_parallelism(config)
  _check_length(config)
