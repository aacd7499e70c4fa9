"""Transfer learning: cats and dogs from random weights, from copied layers, and from fixed features.

  variant    what is trained
  scratch    all layers, from random weights
  fine_tune  all layers; the layers copied from --config.init_from learn at a tenth of the rate
  features   only the last layer, which is a linear classifier on the fixed features fc7 of --config.init_from

An override of alexnet_jax/config/overrides.py may follow the variant, as in `scratch+no_norm`.

Reproduces no number of the paper; the paper's CNN* gains 1.7 points from pre-training. Layers have an eighth
of the paper's features, so that two CPU cores suffice. `--config.model.width=1 --config.model.init=normal` is
the network of the paper. `--config.model.width` must equal the width of the run that layers are copied from.

Command:  python main.py --config=configs/cats_vs_dogs.py:scratch --workdir=DIR
          python main.py --config=configs/cats_vs_dogs.py:fine_tune --config.init_from=RUN --workdir=DIR
          python main.py --config=configs/cats_vs_dogs.py:features --config.init_from=RUN --workdir=DIR
          python experiments/cats_dogs.py --source=folder:PATH --init_from=RUN --workdir=DIR --seeds=0,1,2 \\
            --output=DIR/all.json   (all three)
          python experiments/ablations.py --config=configs/cats_vs_dogs.py:scratch --source=folder:PATH \\
            --workdir=DIR --seeds=0,1,2 --output=DIR/all.json   (the ablations of the paper in small)
Expected: errors of 24.8, 38.9 and 44.9 % on 1,200 photographs, with layers from the quickstart (RESULTS.md).
Hardware: 2 CPU cores.
"""

from alexnet_jax.config import recipes
from alexnet_jax.config.overrides import SMALL_SET

EVERY_RUN = SMALL_SET | {'data.source': 'tfds:cats_vs_dogs'}
SHORT = {'optim.boundaries': (12.0, 16.0), 'train.epochs': 18.0}
# The factor of the learning rates of copied layers.
VARIANTS = {'scratch': 1.0, 'fine_tune': 0.1, 'features': 0.0}


def get_config(variant='scratch'):
  """The config of one of the variants above, followed by any overrides: `VARIANT+OVERRIDE+...`."""
  variant, *overrides = variant.split('+')
  recipes.check_variant(variant, VARIANTS)
  changes = EVERY_RUN if variant == 'scratch' else EVERY_RUN | SHORT
  config = recipes.get('+'.join(['original', *overrides]), changes)
  if variant != 'scratch':
    copied = config.model.layers[:-1]
    config.init_layers = ','.join(copied)
    config.optim.layer_rates = tuple((layer, 0.0, VARIANTS[variant]) for layer in copied)
  return config
