"""Recipes: the five networks called AlexNet, each with its data, augmentation and schedule, as configs.

`get('paper')` returns a whole config. `get('original+no_norm+one_gpu')` starts from a recipe and applies
overrides (`alexnet_jax.config.overrides`) in turn. Sources: docs/FACTS.md, sections 1, 2 and 9.
"""

from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax.config import keys
from alexnet_jax.config.overrides import DEXP, OVERRIDES
from alexnet_jax.errors import UserError
from alexnet_jax.models.spec import NO_PADDING
from alexnet_jax.utils.suggestion import suggest

RELU_POOL = ('act', 'norm', 'pool')


def _model() -> ConfigDict:
  """The network of the paper, taken literally."""
  return ConfigDict(
    {
      'name': 'alexnet',  # what it is called: alexnet, cifar10 or lenet5
      'num_classes': 0,  # 0: as many as the source has (1000 in create and describe)
      'input_size': 224,  # side of the image the network sees, in pixels
      'gray': False,  # whether it sees one channel, the mean of the three
      'towers': 2,  # columns that meet where a layer's `exchange` says so
      'width': 1.0,  # multiplies the features of every layer but the last
      'dtype': 'float32',  # of the computation; parameters are always float32
      'activation': 'relu',  # tanh, or scaled_tanh: 1.7159 tanh(2x/3), as LeNet-5 has it
      'norm': 'lrn',  # what 'norm' in `then` means: lrn, batch or none (only lrn keeps map_norm)
      'init': 'normal',  # `std` and `bias` of each layer, or 'torch': PyTorch's defaults
      # Those there are, in order.
      'layers': ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7', 'fc8'),
      # The layers. Of conv1, 3 zero rows and columns at the bottom and right make 55x55 of 224x224, as O did.
      'conv1': conv(96, 11, ((0, 3), (0, 3)), stride=4, then=RELU_POOL),
      'conv2': conv(256, 5, 2, bias=1.0, then=RELU_POOL),
      'conv3': conv(384, 3, 1, exchange=True),
      'conv4': conv(384, 3, 1, bias=1.0),
      'conv5': conv(256, 3, 1, bias=1.0, then=('act', 'pool')),
      # For the nets that have it (FACTS section 4): named in `layers` by choice conv6.
      'conv6': conv(256, 3, 1, bias=1.0, exchange=True, std=0.03),
      'fc6': fc(),
      'fc7': fc(),
      'fc8': head(),
      # Max pooling, in pixels; rounding of the output's size: ceil (O, K) or floor (T).
      'pool': {'window': 3, 'stride': 2, 'rounding': 'ceil'},
      # x / (k + alpha * sum x^2)^beta over `size` neighbouring maps, of one tower or of all (scope);
      # divide: alpha is divided by size first.
      'lrn': {'size': 5, 'k': 2.0, 'alpha': 1e-4, 'beta': 0.75, 'divide': False, 'scope': 'tower'},
      # The original's norm within a map over size x size pixels; 4e-5 is its 1e-3 / 25.
      'map_norm': {'size': 5, 'k': 1.0, 'alpha': 4e-5, 'beta': 0.75},
      'batch_norm': {'momentum': 0.9, 'epsilon': 1e-5},  # of the running moments; of the variance
      # rate: share of units dropped; inverted: scaled up in training (K, T), not down at test (O).
      'dropout': {'rate': 0.5, 'inverted': False},
    }
  )


def _data() -> dict[str, object]:
  """Where images come from, and how they are read."""
  return {
    'source': 'tfds:imagenet2012',  # tfds:NAME, folder:PATH, store:PATH, elpv or synthetic
    'data_dir': '',  # of TFDS; '': its own default
    'manual_dir': '',  # where the archives lie that TFDS cannot fetch, ImageNet's; '': its default
    'devkit': '',  # ImageNet's, unpacked; '': looked for beside train and val
    'label_order': '',  # of ImageNet's classes: wordnet, devkit (O), or '': the source's
    'task': 'type',  # of source elpv: type (mono- or polycrystalline) or defect
    'holdout': 0.1,  # share held out for validation where the source has no such split
    'split_seed': 0,  # draws the images held out; apart from `seed`, so that runs compare
    'canvas': {
      'size': 256,  # side of the stored image, in pixels
      'fit': 'crop',  # crop: short side to size, centre; warp: K's; pad: whole image inside
      'filter': 'bicubic',  # antialiased: bicubic, bilinear, box or lanczos
      'max_pixels': 89_478_485,  # Pillow's own limit; a larger image counts as undecodable
      # Whether photographs are turned upright by their EXIF orientation, as browsers show them; O, K, T
      # and TFDS ignore it.
      'exif_orientation': True,
    },
    'threads': 0,  # that decode images; 0: one a core
    # global: another permutation each epoch; stored: the order they lie in, O's habit; buffer: `buffer`
    # images at a time, for a TFDS set in TFRecord, which is else copied into a store
    'shuffle': 'global',
    'buffer': 4096,  # images among which shuffle=buffer draws
    'loader': 'threads',  # how larger sets are read: threads, or tf.data (the same batches)
    'cache_mib': 2048,  # sets whose canvases fit are decoded once and kept in memory
    'max_bad_share': 0.01,  # of undecodable training images before the run stops; one never does
    'synthetic': {'classes': 10, 'train': 512, 'validation': 128},  # how many of each
  }


def _optim() -> ConfigDict:
  """The update rule and the schedule of the paper's section 5."""
  return ConfigDict(
    {
      'momentum': 0.9,  # of the velocity, which has the rate inside it
      'rate': 0.01,  # of weights
      'bias_rate': 0.01,  # of biases
      # How both rates grow with train.batch_size over `batch`, for which they are meant: linear (what
      # worked in "one weird trick"), sqrt (its theory), none; auto: linear for parallelism owt,
      # else none.
      'scaling': {'rule': 'auto', 'batch': 128},
      'warmup': 0.0,  # epochs in which rates rise from those for scaling.batch to those for the batch
      'decay': 5e-4,  # of weights
      'bias_decay': 0.0,  # of biases
      'layer_decay': (),  # (layer, decay): of the weights of single layers, in place of `decay`
      'ema': 0.0,  # decay a step of a running average of the weights (0.9999, say); 0: none is kept
      # steps: divided at `boundaries`; plateau: divided when the validation error stops
      # improving, P's rule; dexp: O's discretised exponential; constant.
      'schedule': 'steps',
      'unit': 'epoch',  # of the boundaries: epoch or step
      'boundaries': (25.0, 51.0, 79.0),  # after which a rate is divided
      'factor': 0.1,  # of the rate at each boundary or plateau
      'bias_factor': 0.1,  # the same for biases
      # Drop the rate after `patience` evaluations that gain less than min_delta points of error, so often.
      'plateau': {'patience': 3, 'min_delta': 0.1, 'drops': 3},
      # factor: by which the rate falls in all, in so many levels.
      'dexp': {'factor': 250.0, 'levels': 4, 'bias_factor': 10.0, 'bias_levels': 2},
      # (layer, epoch, factor): from that epoch on, both rates of the layer are this share of
      # the others'; 0 freezes it, momentum and decay too.
      'layer_rates': (),
    }
  )


def paper() -> ConfigDict:
  """The whole config of recipe `paper`; every other recipe is a few overrides of it."""
  return ConfigDict(
    {
      'recipe': 'paper',  # its name, with its choices
      'note': '',  # said when training starts
      'seed': 0,  # of initial weights, order of images, crops, flips, colour noise and dropout
      'mesh': (0, 0),  # (data, tower) devices; (0, 0): from the number of devices and of towers
      # towers: a tower a device, as the paper had it, and whole networks where there are more; owt:
      # "one weird trick" (2014), convolutions split by image, fully connected layers by unit.
      'parallelism': 'towers',
      # Parts of a device's share of a batch that a step computes one after the other, for less memory:
      # the same update.
      'micro_batches': 1,
      # Layers are copied from it at the start: a run's workdir (its last checkpoint) or a .safetensors file.
      'init_from': '',
      'init_layers': '',  # which: conv1,conv2; '': all but the last, whose classes are others
      'model': _model(),  # the network
      'data': _data(),  # the images
      'prepare': {  # what --mode=prepare makes of data.source
        'format': 'jpeg',  # or raw: uint8, six times the size, nothing to decode
        'quality': 95,  # of jpeg
        'subsampling': '420',  # of the colours in jpeg: 444, 422 or 420
        'shard_images': 4096,  # in each file; what a restart may have to do again
        'shuffle': True,  # training images, once and for all
      },
      'augment': {  # what is done to training images on the device
        'crop': 'random',  # random: a square of input_size; resized: T's RandomResizedCrop; centre
        'flip': True,  # mirrored at random
        'chunk': 1,  # so many images in a row share one crop position and flip; O: 32
        'mean': 'image',  # image: a value a pixel; channel: a value a channel; none
        'mean_at': 'crop',  # where the crop was cut (and mirrored with it), or centre (O)
        'std': (1.0, 1.0, 1.0),  # the channels are divided by this, in grey levels
        'colour': 0.1,  # noise along the eigenvectors: this x their deviation x N(0, 1)
        'colour_divisor': 1.0,  # O divides the noised image by 1.1
        'colour_until': 0.0,  # epoch from which there is no colour noise; 0: never
      },
      'optim': _optim(),  # the update rule and its schedule
      'train': {  # the loop
        'epochs': 90.0,  # how long
        'steps': 0,  # where set, overrides epochs
        'batch_size': 128,  # of all devices together
        'log_every': 20,  # steps
        'diagnose_every': 500,  # steps between numbers about each layer in metrics.jsonl; 0: never
        'checkpoint_every': 1000,  # steps; there is one at each evaluation too
        'keep': 2,  # latest checkpoints kept, beside the best one
        'evaluate': True,  # on the validation split, at the end of each epoch
        # %: the run ends with the epoch after which the error over all training images, taken as
        # in evaluation, is no higher; 0: never, and it is not measured.
        'until_train_error': 0.0,
        'profile': (0, 0),  # first and last step of a trace in WORKDIR/profile; (0, 0): none
        'stall_steps': 2000,  # warn if the loss is still ln(classes) after as many; 0: never
      },
      'eval': {  # how networks are tested
        # Of --mode=eval: 1 (centre), 10 (corners, centre and their mirrors) or 9 (3x3 places, not
        # mirrored: the original's CIFAR-10).
        'views': 10,
        'weights': 'last',  # last: as the last step left them; ema: their running average, optim.ema
        'train_views': 1,  # of the evaluations while training
        'batch_size': 128,  # images at a time, of all devices together
        'baseline': False,  # also ridge regression on 16x16 pixel means
      },
      'report': {  # what --mode=report shows
        'images': 8,  # with their likeliest classes; of the highest loss; with neighbours
        'neighbours': 6,  # of each
        'train_images': 100_000,  # among which they are looked for, at most; 4 bytes x 4096 each
        'bits': 0,  # of binary codes of the same vectors, compared with them; 0: none
      },
      'serve': {'max_mib': 16, 'max_pixels': 50_000_000},  # largest image that --mode=serve takes
      'log': {  # beside metrics.jsonl
        'tensorboard': True,  # events in WORKDIR/tensorboard
        'wandb': '',  # project of Weights & Biases; '': not there. WANDB_MODE=offline needs no account
      },
    }
  )


ORIGINAL = {
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
      'Recipe `paper` follows the text literally, including initial weights with a standard '
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


def get(variant: str = 'paper') -> ConfigDict:
  """The config of `RECIPE` or `RECIPE+OVERRIDE+...`.

  Raises:
    UserError: a recipe or an override is not known.
  """
  recipe, *overrides = variant.split('+')
  check_variant(recipe, RECIPES, 'recipe')
  config = apply(keys.defaults(), RECIPES[recipe])
  config.recipe = variant
  for name in overrides:
    check_variant(name, OVERRIDES, 'override')
    changes = OVERRIDES[name]
    apply(config, changes(config) if callable(changes) else changes)
  return config
