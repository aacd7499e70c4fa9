"""What each idea of the paper's sections 3, 4 and 7 is worth: the network of ILSVRC-2012 without it.

  variant           without                           paper, top-1 / top-5        lab notes (2012)
  base              nothing (net 145)                 40.7 / 18.2                 40.664 / 18.210
  one_gpu           half the kernels (3.2)            1.7 / 1.2 worse (2010)      in ilsvrc2010.py
  no_norm           all norms, net 148 (3.3)          1.4 / 1.2 worse             42.034 / 19.362
  no_overlap        overlapping pools, net 147 (3.4)  0.4 / 0.3 worse             41.058 / 18.510
  no_colour         colour noise (4.1)                over 1 worse in top-1       -
  centre            ten views (4.1), in evaluation    1.5 / 1.3 worse (2010)      in ilsvrc2010.py
  no_dropout        dropout (4.2)                     "substantial overfitting"   -
  no_conv2 ... 5    one middle layer (7)              about 2 worse in top-1      -
  tanh              ReLU (3.1)                        slower: Figure 1            -
  no_communication  any talk of the towers, net 150   -                           41.83 / 19.33
  batch_norm        LRN; batch normalisation instead  -                           -

Each had its own hand-made schedule where one is noted (FACTS section 2); the others have that of `base`.

Command:  python main.py --config=configs/ablations.py:no_norm --workdir=DIR
          python main.py --mode=eval --workdir=DIR --checkpoint=latest
Expected: the differences above. They are of single runs, there and here.
Hardware: any; the paper's two GTX 580 took five to six days a network.
Result:   not measured by us: needs ImageNet.
"""

from alexnet_jax.config import recipes
from alexnet_jax.errors import UserError


def _schedule(boundaries, conv1_low, conv1_frozen, epochs):
  return {
    'optim.boundaries': boundaries,
    'optim.layer_rates': (('conv1', conv1_low, 0.1), ('conv1', conv1_frozen, 0.0)),
    'augment.colour_until': conv1_low,
    'train.epochs': epochs,
  }


VARIANTS = {
  'base': {},
  'one_gpu': {},
  'no_norm': _schedule((22.0, 44.0, 86.0), 69.0, 73.0, 97.0),
  # When net 147's colour noise ended is not noted: as in `base`.
  'no_overlap': _schedule((23.0, 51.0, 79.0), 67.0, 79.0, 90.0),
  'no_colour': {},
  'centre': {'eval.views': 1},
  'no_dropout': {},
  'no_conv2': {},
  'no_conv3': {},
  'no_conv4': {},
  'no_conv5': {},
  'tanh': {},
  'no_communication': _schedule((25.0, 49.0, 79.0), 66.0, 72.0, 92.0),
  'batch_norm': {},
}


def get_config(variant='base'):
  """The config of a variant of the table above."""
  if variant not in VARIANTS:
    raise UserError(f'unknown variant {variant!r}: choose one of {", ".join(VARIANTS)}')
  recipe = 'original' if variant in ('base', 'centre') else f'original+{variant}'
  return recipes.apply(recipes.get(recipe), VARIANTS[variant])
