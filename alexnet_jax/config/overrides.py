"""Overrides: named changes of a recipe, written after it as in `original+no_norm+one_gpu`.

They are the ablations of the paper and further questions that readers ask. Net numbers are those of the
authors' notes (docs/FACTS.md, section 0).
"""

from collections.abc import Callable
import functools
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax.models.spec import NO_PADDING

Changes = dict[str, Any]  # values by dotted key

# The schedule that the authors settled on after the paper, net 170 (FACTS section 2).
DEXP: Changes = {
  'optim.schedule': 'dexp',
  'optim.layer_rates': (),
  'augment.colour_until': 0.0,
}

# Some hundreds to some thousands of images, on two CPU cores: configs/photos.py and configs/cats_vs_dogs.py.
SMALL_SET: Changes = {
  'model.width': 0.125,
  'model.init': 'torch',
  'optim.rate': 0.005,
  'optim.bias_rate': 0.005,
  'optim.scaling.batch': 32,
  'optim.bias_factor': 0.1,
  'optim.schedule': 'steps',
  'optim.unit': 'epoch',
  'optim.boundaries': (30.0, 38.0),
  'optim.layer_rates': (),
  'augment.colour_until': 0.0,
  'train.epochs': 40.0,
  'train.batch_size': 32,
  'train.stall_steps': 0,
  'eval.baseline': True,
}


def _large_batch(config: ConfigDict) -> Changes:
  """Returns a larger batch, for an accelerator that 128 images leave idle.

  Learning rates grow with the batch, over the first five epochs. Boundaries in steps move with it.
  """
  changes: Changes = {
    'train.batch_size': 1024,
    'optim.scaling.rule': 'linear',
    'optim.warmup': 5.0,
  }
  if config.optim.unit == 'step':
    share = config.train.batch_size / 1024
    changes['optim.boundaries'] = tuple(share * step for step in config.optim.boundaries)
  return changes


def _conv6(config: ConfigDict) -> Changes:
  """Returns changes that add a sixth convolution on pool5, which also reads both towers (FACTS section 4).

  A dropout before fc6 stays there.
  """
  model, layers = config.model, list(config.model.layers)
  if 'fc6' not in layers:
    return {}
  at = layers.index('fc6')
  then = model[layers[at - 1]].then
  dropout = tuple(operation for operation in then if operation == 'dropout')
  return {
    'model.layers': (*layers[:at], 'conv6', *layers[at:]),
    'model.conv6.then': (*model.conv6.then, *dropout),
    f'model.{layers[at - 1]}.then': tuple(op for op in then if op != 'dropout'),
  }


def _without(layer: str, config: ConfigDict) -> Changes:
  """Returns changes that remove a middle layer.

  The layer before it takes over its pooling and dropout, and the layer after it takes over its exchange
  between towers.
  """
  layers, model = config.model.layers, config.model
  if layer not in layers:
    return {}
  at = layers.index(layer)
  before, after = layers[at - 1], layers[at + 1]
  changes: Changes = {'model.layers': tuple(name for name in layers if name != layer)}
  if 'pool' in model[layer].then:
    pools = 'pool' in model[before].then
    moved = tuple(op for op in model[layer].then if op in ('pool', 'dropout'))
    then = (*model[before].then, *moved) if pools else model[layer].then
    changes[f'model.{before}.then'] = then
  if model[layer].exchange:
    changes[f'model.{after}.exchange'] = True
  return changes


# Each override is the changes themselves, or a function that computes them from the config.
OVERRIDES: dict[str, Changes | Callable[[ConfigDict], Changes]] = {
  'large_batch': _large_batch,
  # The control of section 3.2 of the paper: half the kernels in conv1 to conv4.
  'one_gpu': {
    'model.towers': 1,
    'model.conv1.features': 48,
    'model.conv2.features': 128,
    'model.conv3.features': 192,
    'model.conv4.features': 192,
  },
  'conv6': _conv6,
  'no_norm': {'model.norm': 'none'},
  'batch_norm': {'model.norm': 'batch'},
  # Pooling windows that do not overlap, net 147: the paddings keep 6x6 pixels before fc6 (FACTS section 1.2).
  'no_overlap': {
    'model.pool.window': 2,
    'model.pool.rounding': 'ceil',
    'model.conv2.padding': ((1, 1), (1, 1)),
    'model.conv5.padding': NO_PADDING,
  },
  'tanh': {'model.activation': 'tanh'},
  'no_conv2': functools.partial(_without, 'conv2'),
  'no_conv3': functools.partial(_without, 'conv3'),
  'no_conv4': functools.partial(_without, 'conv4'),
  'no_conv5': functools.partial(_without, 'conv5'),
  # Towers that exchange their outputs not before conv3, before conv4 instead, or before no layer at all:
  # nets 127a, 132 and 150 (FACTS sections 0 and 7).
  'no_exchange': {'model.conv3.exchange': False},
  'exchange_conv4': {'model.conv3.exchange': False, 'model.conv4.exchange': True},
  'no_communication': {
    'model.lrn.scope': 'tower',
    'model.conv3.exchange': False,
    'model.conv2.features': 320,
    'model.conv6.exchange': False,
    'model.fc6.exchange': False,
    'model.fc6.features': 8192,
    'model.fc7.exchange': False,
  },
  # CaffeNet, the second AlexNet that Caffe ships: pooling before LRN, and biases of 1 (FACTS section 1).
  'caffenet': {
    'model.conv1.then': ('act', 'pool', 'norm'),
    'model.conv2.then': ('act', 'pool', 'norm'),
    'model.conv2.bias': 1.0,
    'model.conv4.bias': 1.0,
    'model.conv5.bias': 1.0,
    'model.fc6.bias': 1.0,
    'model.fc7.bias': 1.0,
  },
  'no_dropout': {'model.dropout.rate': 0.0},
  'no_colour': {'augment.colour': 0.0},
  'no_flip': {'augment.flip': False},
  'plateau': {
    'optim.schedule': 'plateau',
    'optim.layer_rates': (),
    'optim.bias_factor': 0.1,
    'augment.colour_until': 0.0,
  },
  'dexp': DEXP | {'train.epochs': 95.0},
  # Details of the original code that the paper does not mention (FACTS section 3).
  'stored_order': {'data.shuffle': 'stored'},
  'chunk_crops': {'augment.chunk': 32},
  # The canvas of Caffe, which ignores the aspect ratio.
  'warp': {'data.canvas.fit': 'warp'},
  'bfloat16': {'model.dtype': 'bfloat16'},
}

# Overrides of what the towers exchange.
NEED_TWO_TOWERS = ('no_exchange', 'exchange_conv4', 'no_communication')
