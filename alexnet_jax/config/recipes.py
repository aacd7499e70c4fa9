"""Recipes: the five networks called AlexNet, each with its data, augmentation and schedule, as configs.

`get('paper')` returns a whole config. `get('original+no_norm+one_gpu')` starts from a recipe and applies
overrides (`alexnet_jax.config.overrides`); those that are computed from the config come last. Sources:
docs/FACTS.md, sections 1, 2 and 9.
"""

from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax.config import keys
from alexnet_jax.config.overrides import DEXP, NEED_TWO_TOWERS, OVERRIDES
from alexnet_jax.errors import UserError
from alexnet_jax.models.spec import NO_PADDING
from alexnet_jax.utils.suggestion import suggest

# The original code of 2012, net 145 of the authors' notes.
ORIGINAL: dict[str, Any] = {
  'data.canvas.exif_orientation': False,
  'model.lrn.divide': True,
  'model.conv1.then': ('norm', 'pool', 'act'),
  'model.conv2.then': ('act', 'norm', 'map_norm', 'pool'),
  'model.conv3.std': 0.03,
  'model.conv4.std': 0.03,
  'model.conv5.std': 0.03,
  'model.conv5.then': ('pool', 'act'),
  'augment.mean_at': 'centre',
  'augment.colour_divisor': 1.1,
  'augment.colour_until': 67.0,
  'optim.bias_rate': 0.02,
  'optim.bias_factor': 1.0,  # net 145's biases kept their rate (FACTS section 2)
  'optim.layer_rates': (('conv1', 67.0, 0.1), ('conv1', 72.0, 0.0)),
  'train.epochs': 91.0,
}

# One tower with 64-192-384-256-256 maps: the single-GPU network of cuda-convnet2, from which torchvision's
# descends.
ONE_TOWER: dict[str, Any] = {
  'model.towers': 1,
  'model.conv1.features': 64,
  'model.conv2.features': 192,
}

# The changes that make each recipe of the default values in `keys`.
RECIPES: dict[str, dict[str, Any]] = {
  'paper': {
    'note': (
      'Recipe `paper` follows the text of the paper: the initial weights have a standard '
      'deviation of 0.01 in every layer. Recipe `original`, which the authors ran, starts to '
      'learn sooner (RESULTS.md).'
    )
  },
  'original': ORIGINAL,
  'caffe': {
    'model.input_size': 227,
    'model.conv1.padding': NO_PADDING,
    'model.lrn.k': 1.0,
    'model.lrn.divide': True,
    'model.lrn.scope': 'all',
    'model.conv2.bias': 0.1,
    'model.conv4.bias': 0.1,
    'model.conv5.bias': 0.1,
    'model.fc6.std': 0.005,
    'model.fc6.bias': 0.1,
    'model.fc7.std': 0.005,
    'model.fc7.bias': 0.1,
    'model.dropout.inverted': True,
    'data.canvas.fit': 'warp',
    'data.canvas.exif_orientation': False,
    'augment.colour': 0.0,
    'optim.bias_rate': 0.02,
    'optim.unit': 'step',
    'optim.boundaries': (100_000.0, 200_000.0, 300_000.0, 400_000.0),
    'train.epochs': 89.918,  # 450,000 steps on ILSVRC-2012
    'train.batch_size': 256,
    'optim.scaling.batch': 256,
  },
  'owt': {
    **ORIGINAL,
    **ONE_TOWER,
    **DEXP,
    'model.conv2.then': ('act', 'norm', 'pool'),
    'model.conv4.features': 256,
    'model.fc8.bias': -7.0,
    'train.epochs': 90.0,
  },
  'torchvision': {
    **ONE_TOWER,
    'model.conv4.features': 256,
    'model.conv1.padding': ((2, 2), (2, 2)),
    'model.norm': 'none',
    'model.init': 'torch',
    'model.pool.rounding': 'floor',
    'model.dropout.inverted': True,
    'model.conv5.then': ('act', 'pool', 'dropout'),
    'model.fc6.then': ('act', 'dropout'),
    'model.fc7.then': ('act',),
    'data.canvas.filter': 'bilinear',
    'data.canvas.exif_orientation': False,
    'augment.crop': 'resized',
    'augment.mean': 'channel',
    'augment.std': (58.395, 57.12, 57.375),  # 255 x (0.229, 0.224, 0.225)
    'augment.colour': 0.0,
    'optim.bias_decay': 1e-4,
    'optim.decay': 1e-4,
    'optim.boundaries': (30.0, 60.0),
    'train.batch_size': 256,
    'optim.scaling.batch': 256,
  },
}


def apply(config: ConfigDict, changes: dict[str, Any]) -> ConfigDict:
  """Sets dotted keys of `config`, as in `{'model.width': 0.5}`, in place; returns `config`."""
  config.update_from_flattened_dict(changes)
  return config


def check_variant(variant: str, known: Iterable[str], kind: str = 'variant') -> None:
  """Checks that `variant` is one of the `known` names.

  Args:
    variant: the name that was asked for.
    known: the names that exist.
    kind: what the names are, for the message.

  Raises:
    UserError: the name is not known; the message suggests a near one.
  """
  if variant not in known:
    raise UserError(f'unknown {kind} {variant!r}: {suggest(variant, known)}')


def get(variant: str = 'paper', changes: dict[str, Any] | None = None) -> ConfigDict:
  """Returns the config of `RECIPE` or `RECIPE+OVERRIDE+...`.

  Args:
    variant: the names of a recipe and of overrides.
    changes: values by dotted key that a config file sets after the recipe and before the overrides.

  Raises:
    UserError: a recipe or an override is not known, or an override needs two towers and the network has one.
  """
  recipe, *overrides = variant.split('+')
  check_variant(recipe, RECIPES, 'recipe')
  config = apply(keys.defaults(), RECIPES[recipe] | (changes or {}))
  config.recipe = variant
  for name in overrides:
    check_variant(name, OVERRIDES, 'override')
  # Overrides that are computed from the config come last, so that their order among the others has no effect.
  for override in sorted((OVERRIDES[name] for name in overrides), key=callable):
    apply(config, override(config) if callable(override) else override)
  lost = [name for name in overrides if name in NEED_TWO_TOWERS]
  if lost and config.model.towers == 1:
    raise UserError(
      f'{variant}: {lost[0]} needs two towers, and this network has one tower: leave it out'
    )
  return config
