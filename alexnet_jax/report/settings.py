"""What a page says of how its run was made: the settings everybody asks for, and all that are no recipe's."""

from typing import Any

from ml_collections import ConfigDict

from alexnet_jax import config as config_lib
from alexnet_jax.config import keys, recipes
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation.evaluate import Trained
from alexnet_jax.models.spec import is_layer

_ASKED = (
  'init_from', 'model.width', 'train.epochs', 'train.batch_size', 'optim.rate', 'optim.bias_rate',
  'optim.momentum', 'optim.decay', 'optim.schedule', 'optim.boundaries', 'augment.crop', 'augment.flip',
  'augment.colour', 'seed',
)  # fmt: skip
# These are said elsewhere, or say nothing of the network: where it was computed, what was made of it.
_ELSEWHERE = (
  'recipe', 'note', 'model.num_classes', 'mesh', 'log.', 'prepare.', 'report.', 'serve.',
)  # fmt: skip
_ABSENT = '-'


def facts(trained: Trained, which: str, source: str, classes: int, parameters: int) -> dict:
  """The run in a few lines, name to text.

  Args:
    trained: the checkpoint, with its meta data.
    which: as it was asked for: best, latest or a step.
    source: of the images that the page is of.
    classes, parameters: how many.
  """
  meta, own = trained.meta, trained.meta['config']
  images = own.data.source
  if meta['num_train']:  # an imported network's are not known
    images += f': {meta["num_train"]:,} and {meta["num_validation"]:,} held out'
  here = {'images of this page': source} if source != own.data.source else {}
  flat = config_lib.flatten(own)
  return {
    'recipe': own.recipe,
    'images': images,
    **here,
    'classes': f'{classes:,}',
    'parameters': f'{parameters:,}',
    'checkpoint': f'{"" if which.isdigit() else which + ", "}step {trained.step:,}, '
    f'epoch {meta["epoch"]:.1f}',
    'weights': {'last': 'as the last step left them', 'ema': 'their running average'}[
      trained.config.eval.weights
    ],
    **{key: _text(flat[key]) for key in _ASKED},
  }


def chosen_here(trained: Trained, which: str, source: str) -> bool:
  """Whether the checkpoint was chosen by its error on the images that the page is of."""
  evaluated = 'val/top1_error' in trained.meta['validation']
  return which == 'best' and evaluated and source == trained.meta['config'].data.source


def differences(config: ConfigDict) -> tuple[str, list[tuple[str, str, str]]]:
  """What `config` has otherwise than the recipe it names: that, and (key, value, the recipe's value).

  Layers that the network does not have count for nothing. A recipe that nobody knows is compared with
  `paper`.
  """
  name, base = _base(config.recipe)
  own, theirs = config_lib.flatten(config), config_lib.flatten(base)
  idle = tuple(
    f'model.{layer}.'
    for layer, room in (*config.model.items(), *base.model.items())
    if is_layer(room) and layer not in config.model.layers
  )
  return name, [
    (key, _text(own.get(key, _ABSENT)), _text(theirs.get(key, _ABSENT)))
    for key in sorted(own.keys() | theirs.keys())
    if own.get(key) != theirs.get(key) and not key.startswith((*_ELSEWHERE, *idle))
  ]


def _base(recipe: str) -> tuple[str, ConfigDict]:
  """The recipe of this name, or the shipped config where it is one's, as `cifar10:relu` is; else `paper`."""
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
