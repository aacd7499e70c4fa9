"""Transfer: cats and dogs from scratch, from layers learnt elsewhere, and on fixed features.

  variant    what learns
  scratch    everything, from random weights
  fine_tune  everything, from the layers of --config.init_from: those at a tenth of the rate
  features   the last layer alone: a linear classifier on the fixed fc7 of --config.init_from

The paper has no number for it: pre-training is what its CNN* owes 1.7 points to. The widths are an eighth, so
that two CPU cores will do; `--config.model.width=1 --config.model.init=normal` is the network of the paper,
and `--config.model.width` must be that of the run that layers come from.

Command:  python main.py --config=configs/cats_vs_dogs.py:scratch --workdir=DIR
          python main.py --config=configs/cats_vs_dogs.py:fine_tune --config.init_from=RUN --workdir=DIR
          python main.py --config=configs/cats_vs_dogs.py:features --config.init_from=RUN --workdir=DIR
          python experiments/cats_dogs.py --source=folder:PATH --init_from=RUN --workdir=DIR --seeds=0,1,2 \\
            --output=DIR/all.json   (all)
Expected: on 1,200 photographs, layers from the quickstart: 23.6, 38.9 and 44.9 % (RESULTS.md).
Hardware: 2 CPU cores.
"""

from alexnet_jax.config import recipes
from alexnet_jax.errors import UserError

EVERY_RUN = {
  'model.width': 0.125,
  'model.init': 'torch',
  'data.source': 'tfds:cats_vs_dogs',
  'optim.rate': 0.005,
  'optim.bias_rate': 0.005,
  'optim.bias_factor': 0.1,
  'optim.boundaries': (30.0, 38.0),
  'optim.layer_rates': (),
  'augment.colour_until': 0.0,
  'train.epochs': 40.0,
  'train.batch_size': 32,
  'train.stall_steps': 0,
  'eval.baseline': True,
}
SHORT = {'optim.boundaries': (12.0, 16.0), 'train.epochs': 18.0}
VARIANTS = {'scratch': 1.0, 'fine_tune': 0.1, 'features': 0.0}  # of the rate, for copied layers


def get_config(variant='scratch'):
  """The config of a variant of the table above."""
  if variant not in VARIANTS:
    raise UserError(f'unknown variant {variant!r}: choose one of {", ".join(VARIANTS)}')
  config = recipes.apply(recipes.get('original'), EVERY_RUN)
  if variant != 'scratch':
    recipes.apply(config, SHORT)
    copied = config.model.layers[:-1]
    config.init_layers = ','.join(copied)
    config.optim.layer_rates = tuple((layer, 0.0, VARIANTS[variant]) for layer in copied)
  return config
