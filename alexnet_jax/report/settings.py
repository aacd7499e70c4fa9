"""The settings of a run for its report: the main ones, and those that differ from the recipe."""

from typing import Any

from ml_collections import ConfigDict

from alexnet_jax import config as config_lib
from alexnet_jax.config import keys, recipes
from alexnet_jax.data import sources
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation.loading import Trained
from alexnet_jax.models.spec import is_layer

_MAIN = (
  'init_from', 'model.width', 'train.epochs', 'train.batch_size', 'optim.rate', 'optim.bias_rate',
  'optim.momentum', 'optim.decay', 'optim.schedule', 'optim.boundaries', 'augment.crop', 'augment.flip',
  'augment.colour', 'seed',
)  # fmt: skip
# Keys that the report shows elsewhere, or that do not affect the network.
_OMITTED = (
  'recipe', 'note', 'model.num_classes', 'mesh', 'log.', 'prepare.', 'report.', 'serve.',
)  # fmt: skip
_ABSENT = '-'


def main(trained: Trained, source: str) -> dict[str, str]:
  """Returns the main settings of a run, as {key: text}.

  Args:
    trained: the checkpoint, with its metadata.
    source: source of the images in the report.
  """
  own = trained.meta['config']
  flat = config_lib.flatten(own)
  found = {'recipe': own.recipe, 'data.source': own.data.source}
  if source != own.data.source:
    found['images of this report'] = source
  return found | {key: _text(flat[key]) for key in _MAIN}


def chosen_here(trained: Trained, which: str, source: str) -> bool:
  """Returns whether the checkpoint was chosen by its error on the images of the report."""
  evaluated = 'val/top1_error' in trained.meta['validation']
  here, own = map(sources.short_name, (source, trained.meta['config'].data.source))
  return which == 'best' and evaluated and here == own


def differences(config: ConfigDict) -> tuple[str, list[tuple[str, str, str]]]:
  """Returns the keys of `config` that differ from its recipe.

  Keys of layers that the network does not have are ignored.

  Returns:
    The name of the recipe, and (key, value, value in the recipe) of each key. The recipe is `paper`
    if the config names an unknown one.
  """
  name, base = _recipe(config.recipe)
  own, theirs = config_lib.flatten(config), config_lib.flatten(base)
  idle = tuple(
    f'model.{layer}.'
    for layer, value in (*config.model.items(), *base.model.items())
    if is_layer(value) and layer not in config.model.layers
  )
  return name, [
    (key, _text(own.get(key, _ABSENT)), _text(theirs.get(key, _ABSENT)))
    for key in sorted(own.keys() | theirs.keys())
    if own.get(key) != theirs.get(key) and not key.startswith((*_OMITTED, *idle))
  ]


def _recipe(recipe: str) -> tuple[str, ConfigDict]:
  """Returns the shipped config (`cifar10:relu`) or recipe of this name; else `paper`."""
  file, _, variant = recipe.partition(':')
  path = config_lib.shipped().get(file)
  try:
    if path and variant:
      return recipe, config_lib.load_file(f'{path}:{variant}')
    return recipe, recipes.get(recipe)
  except UserError:
    return 'paper', keys.defaults()


def _text(value: Any) -> str:
  return str(value) or _ABSENT
