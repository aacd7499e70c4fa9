"""The keys of augmentation, training, evaluation and what follows training."""

from collections.abc import Sequence

from alexnet_jax.steps import augment
from alexnet_jax.utils.schema import Key, Schema, is_number

_VIEWS = tuple(augment.VIEWS)


def _are_deviations(value: Sequence) -> bool:
  return len(value) == 3 and all(is_number(number) and number > 0 for number in value)


def _is_window(value: Sequence) -> bool:
  """Returns whether `value` is (first, last) with steps counted from 1, or (0, 0)."""
  if len(value) != 2 or not all(type(step) is int for step in value):
    return False
  return tuple(value) == (0, 0) or 1 <= value[0] <= value[1]


AUGMENT: Schema = {
  'crop': Key(
    'random',
    'How training images are cut from canvases: `random` cuts a square of model.input_size at a '
    'random position, `resized` is RandomResizedCrop of torchvision, and `centre` cuts out the '
    'centre.',
    choices=('random', 'resized', 'centre'),
  ),
  'flip': Key(True, 'Whether training images are mirrored left to right with probability 1/2.'),
  'chunk': Key(
    1,
    'The number of consecutive images of a batch that share one crop position and one decision '
    'to mirror. The original 2012 code used 32.',
    unit='images',
    minimum=1,
  ),
  'mean': Key(
    'image',
    'What is subtracted from images: `image` is the mean training image, one value per pixel and '
    'channel; `channel` is one value per channel; `none` subtracts nothing.',
    choices=('image', 'channel', 'none'),
  ),
  'mean_at': Key(
    'crop',
    'Which part of the mean image is subtracted: `crop` is the part at the position of the crop, '
    'mirrored with it; `centre` is the central part, as in the original 2012 code.',
    choices=('crop', 'centre'),
  ),
  'std': Key(
    (1.0, 1.0, 1.0),
    'The numbers that red, green and blue are divided by, in grey levels from 0 to 255.',
    valid=_are_deviations,
    expected='three numbers of more than 0, such as "(58.4,57.1,57.4)"',
  ),
  'colour': Key(
    0.1,
    'The strength of the colour noise. For each eigenvector of the colours of the training '
    'images, noise with this many times the standard deviation along it is added (section 4.1 of '
    'the paper). 0 adds none.',
    minimum=0,
  ),
  'colour_divisor': Key(
    1.0,
    'The number that images with colour noise are divided by. The original 2012 code used 1.1.',
    above=0,
  ),
  'colour_until': Key(
    0.0,
    'The epoch from which no colour noise is added. 0 adds it in every epoch.',
    unit='epochs',
    minimum=0,
  ),
  'mixup': Key(
    0.0,
    'Mixes pairs of augmented images, and their losses, with shares drawn from Beta(mixup, mixup), '
    'as in mixup (Zhang et al., 2018), where 0.2 is usual. The paper used none. 0 mixes nothing.',
    minimum=0,
  ),
}

TRAIN: Schema = {
  'epochs': Key(90.0, 'The length of the run where train.steps is 0.', unit='epochs', minimum=0),
  'steps': Key(
    0,
    'The length of the run in steps. It takes precedence over train.epochs; 0 leaves the length to '
    'train.epochs.',
    unit='steps',
    minimum=0,
  ),
  'batch_size': Key(
    128,
    'The number of images in a training batch, summed over all devices.',
    unit='images',
    minimum=1,
    maximum=2**20,
  ),
  'log_every': Key(
    20, 'The number of steps between lines in metrics.jsonl.', unit='steps', minimum=1
  ),
  'diagnose_every': Key(
    500,
    'The number of steps between statistics of each layer in metrics.jsonl. 0 writes none.',
    unit='steps',
    minimum=0,
  ),
  'checkpoint_every': Key(
    1000,
    'The number of steps between checkpoints. Each evaluation writes a checkpoint too.',
    unit='steps',
    minimum=1,
  ),
  'keep': Key(
    2,
    'The number of latest checkpoints that are kept. The best one is kept too.',
    unit='checkpoints',
    minimum=1,
  ),
  'evaluate': Key(
    True, 'Whether the network is evaluated on the validation split at the end of each epoch.'
  ),
  'until_train_error': Key(
    0.0,
    'The top-1 error over all training images at which the run ends. It is measured at the end '
    'of each epoch, without augmentation. 0 does not measure it.',
    unit='per cent',
    minimum=0,
    below=100,
  ),
  'early_stopping': Key(
    0,
    'The number of evaluations in a row without a lower validation error after which the run ends '
    '(early stopping). 0 never ends it early.',
    unit='evaluations',
    minimum=0,
  ),
  'label_smoothing': Key(
    0.0,
    'The share of the target probability that is spread evenly over all classes (label smoothing), such '
    'as 0.1. The paper used none.',
    minimum=0,
    below=1,
  ),
  'class_weights': Key(
    'none',
    'How the losses of images are weighted: `balanced` divides each by the number of training images of '
    'its class, times a constant for which the mean weight is 1; `none` weights all images alike.',
    choices=('none', 'balanced'),
  ),
  'profile': Key(
    (0, 0),
    'The first and the last step, counted from 1, of which a profile is written to '
    'WORKDIR/profile. (0, 0) writes none.',
    valid=_is_window,
    expected='the first and the last step, counted from 1, such as 101,110, or 0,0 for no profile',
  ),
  'stall_steps': Key(
    2000,
    'The number of steps after which training warns if the loss is still ln(classes), the loss '
    'of guessing. 0 never warns.',
    unit='steps',
    minimum=0,
  ),
}

EVAL: Schema = {
  'views': Key(
    10,
    'The number of views of each image whose predictions --mode=eval averages: 1 is the centre; '
    '10 are the corners, the centre and their mirror images, as in the paper; 9 are 3x3 '
    'positions without mirroring, as the original code did for CIFAR-10.',
    choices=_VIEWS,
  ),
  'weights': Key(
    'last',
    'Which parameters are evaluated: `last` are those after the last step, `ema` is their '
    'exponential moving average (optim.ema).',
    choices=('last', 'ema'),
  ),
  'train_views': Key(
    1, 'The number of views of each image in the evaluations during training.', choices=_VIEWS
  ),
  'batch_size': Key(
    128,
    'The number of images in an evaluation batch, summed over all devices.',
    unit='images',
    minimum=1,
    maximum=2**20,
  ),
  'baseline': Key(
    False,
    'Whether --mode=eval also measures a baseline: ridge regression on images averaged down to '
    '16x16 pixels.',
  ),
}

REPORT: Schema = {
  'images': Key(
    8,
    'The number of images in each part of the report: with their most probable classes, with the '
    'highest loss, and with their nearest training images.',
    unit='images',
    minimum=1,
  ),
  'neighbours': Key(
    6,
    'The number of nearest training images that the report shows for each image.',
    unit='images',
    minimum=1,
  ),
  'train_images': Key(
    100_000,
    'The largest number of training images among which the report searches for neighbours. Each '
    'takes 16 KiB of memory with 4096 features.',
    unit='images',
    minimum=1,
  ),
  'bits': Key(
    0,
    'The length of the binary codes of the feature vectors. The report compares the neighbours '
    'that the codes find with those that the vectors find. 0 computes no codes.',
    unit='bits',
    minimum=0,
    maximum=1024,
  ),
}

SERVE: Schema = {
  'max_mib': Key(
    16,
    'The largest upload that --mode=serve accepts: an image file, or a form with several.',
    unit='MiB',
    minimum=1,
  ),
  'max_pixels': Key(
    50_000_000,
    'The largest image, width times height, that --mode=serve accepts.',
    unit='pixels',
    minimum=1,
  ),
  'examples': Key(
    20,
    'The largest number of validation images that the page of --mode=serve offers as examples. '
    'Everyone who can open the page can see them.',
    unit='images',
    minimum=0,
  ),
}

LOG: Schema = {
  'tensorboard': Key(True, 'Whether metrics are also written to WORKDIR/tensorboard.'),
  'wandb': Key(
    '',
    'The project of Weights & Biases that metrics are also sent to. An empty value sends none. '
    'With the environment variable WANDB_MODE=offline no account is needed.',
  ),
}
