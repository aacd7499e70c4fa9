"""The keys of `config.optim`: the update rule and the learning-rate schedule (section 5 of the paper)."""

from collections.abc import Sequence
from typing import Any

from alexnet_jax.utils.schema import Key, Schema, is_number


def _ascend(value: Sequence) -> bool:
  return all(map(is_number, value)) and list(value) == sorted(value)


def _is_event(value: Any, numbers: int) -> bool:
  """Returns whether `value` is (layer, number, ...) with `numbers` numbers, none of them negative."""
  return (
    isinstance(value, tuple | list)
    and len(value) == 1 + numbers
    and isinstance(value[0], str)
    and all(is_number(number) and number >= 0 for number in value[1:])
  )


def _are_decays(value: Sequence) -> bool:
  return all(_is_event(event, numbers=1) for event in value)


def _are_rates(value: Sequence) -> bool:
  return all(_is_event(event, numbers=2) for event in value)


OPTIM: Schema = {
  'momentum': Key(
    0.9,
    'The share of the velocity that each step keeps. The learning rate is inside the velocity, '
    'as in the paper: v <- momentum * v - decay * rate * w - rate * gradient.',
    minimum=0,
    below=1,
  ),
  'rate': Key(0.01, 'The initial learning rate of weights.', minimum=0),
  'bias_rate': Key(0.01, 'The initial learning rate of biases.', minimum=0),
  'scaling': {
    'rule': Key(
      'auto',
      'How both learning rates depend on b = train.batch_size / optim.scaling.batch: `linear` '
      'multiplies them by b, `sqrt` by the square root of b, and `none` does not change them. '
      '`auto` is `linear` where parallelism is `owt`, and `none` elsewhere.',
      choices=('auto', 'linear', 'sqrt', 'none'),
    ),
    'batch': Key(
      128, 'The batch size for which the learning rates are meant.', unit='images', minimum=1
    ),
  },
  'warmup': Key(
    0.0,
    'The epochs in which learning rates rise linearly from those for optim.scaling.batch to '
    'those for train.batch_size. It has no effect where optim.scaling does not change the rates.',
    unit='epochs',
    minimum=0,
  ),
  'decay': Key(5e-4, 'The weight decay.', minimum=0),
  'bias_decay': Key(0.0, 'The decay of biases.', minimum=0),
  'layer_decay': Key(
    (),
    'Weight decays of single layers, as (layer, decay) pairs. They replace optim.decay for those '
    'layers.',
    valid=_are_decays,
    expected='a tuple of (layer, decay) pairs with decays of at least 0',
  ),
  'ema': Key(
    0.0,
    'The decay per step of an exponential moving average (EMA) of the parameters, such as '
    '0.9999. 0 keeps no average. The key eval.weights chooses which parameters are evaluated.',
    minimum=0,
    below=1,
  ),
  'schedule': Key(
    'steps',
    'How learning rates change: `steps` multiplies them by optim.factor at each of '
    'optim.boundaries; `plateau` does so when the validation error stops improving, which is the '
    'rule of the paper; `dexp` is the discretised exponential of the original 2012 code; '
    '`constant` keeps them.',
    choices=('steps', 'plateau', 'dexp', 'constant'),
  ),
  'unit': Key('epoch', 'The unit of optim.boundaries.', choices=('epoch', 'step')),
  'boundaries': Key(
    (25.0, 51.0, 79.0),
    'The epochs or steps after which learning rates are multiplied by optim.factor, where '
    'optim.schedule is `steps`.',
    valid=_ascend,
    expected='a tuple of ascending numbers, such as "(25.,51.)"',
  ),
  'factor': Key(
    0.1,
    'The factor that multiplies the learning rate of weights at each boundary or plateau.',
    minimum=0,
  ),
  'bias_factor': Key(
    0.1,
    'The factor that multiplies the learning rate of biases at each boundary or plateau.',
    minimum=0,
  ),
  'plateau': {
    'patience': Key(
      3,
      'The number of evaluations in a row without an improvement after which the schedule '
      '`plateau` multiplies learning rates by optim.factor.',
      unit='evaluations',
      minimum=1,
    ),
    'min_delta': Key(
      0.1,
      'The smallest decrease of the validation top-1 error that the schedule `plateau` counts as '
      'an improvement.',
      unit='percentage points',
      minimum=0,
    ),
    'drops': Key(
      3,
      'The largest number of times that the schedule `plateau` multiplies learning rates by '
      'optim.factor.',
      minimum=0,
    ),
  },
  'dexp': {
    'factor': Key(
      250.0,
      'The number by which the schedule `dexp` divides the learning rate of weights in the '
      'course of the run.',
      above=0,
    ),
    'levels': Key(
      4,
      'The number of equal parts of the run in which the schedule `dexp` keeps the learning rate '
      'of weights constant.',
      minimum=2,
    ),
    'bias_factor': Key(
      10.0,
      'The number by which the schedule `dexp` divides the learning rate of biases in the course '
      'of the run.',
      above=0,
    ),
    'bias_levels': Key(
      2,
      'The number of equal parts of the run in which the schedule `dexp` keeps the learning rate '
      'of biases constant.',
      minimum=2,
    ),
  },
  'layer_rates': Key(
    (),
    'Changes of the learning rates of single layers, as (layer, epoch, factor) triples: from '
    'that epoch on, both rates of the layer and of its batch normalisation are multiplied by the '
    'factor, until a later triple of the same layer. A factor of 0 freezes these parameters, including '
    'their momentum and decay; the running moments of batch normalisation still follow the images.',
    valid=_are_rates,
    expected='a tuple of (layer, epoch, factor) triples with numbers of at least 0',
  ),
}
