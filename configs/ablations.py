"""The ablations of sections 3, 4 and 7 of the paper: the network of ILSVRC-2012 without one idea each.

Reproduces the statements of the paper about each idea. Errors are in per cent, top-1 / top-5. The last
column has the results for 2012 in the authors' notes (docs/FACTS.md, section 0):

  variant           what is left out or changed          paper                       the authors' notes
  base              nothing (net 145)                    40.7 / 18.2                 40.664 / 18.210
  one_gpu           half the kernels (3.2)               1.7 / 1.2 worse (2010)      see ilsvrc2010.py
  no_norm           all normalisation, net 148 (3.3)     1.4 / 1.2 worse             42.034 / 19.362
  no_overlap        overlapping pooling, net 147 (3.4)   0.4 / 0.3 worse             41.058 / 18.510
  no_colour         colour noise (4.1)                   over 1 worse in top-1       -
  centre            ten views, in evaluation (4.1)       1.5 / 1.3 worse (2010)      see ilsvrc2010.py
  no_dropout        dropout (4.2)                        "substantial overfitting"   -
  no_conv2 ... 5    one middle layer (7)                 about 2 worse in top-1      -
  tanh              ReLU, replaced by tanh (3.1)         slower: Figure 1            -
  no_communication  exchange between towers, net 150     -                           41.83 / 19.33
  batch_norm        LRN, replaced by batch norm          -                           -

A variant whose schedule the authors' notes give has that schedule (FACTS section 2); every other variant has
the schedule of `base`. LRN is local response normalisation.

Command:  python main.py --config=configs/ablations.py:no_norm --workdir=DIR
          python main.py --mode=eval --workdir=DIR --checkpoint=latest
Expected: the differences above. They are differences between single runs, in the paper as well.
Hardware: any; the paper trained each network on two GTX 580 GPUs for five to six days.
Result:   not measured yet, because it needs ImageNet.
"""

from alexnet_jax.config import recipes


def _schedule(boundaries, conv1_low, conv1_frozen, epochs):
  """A schedule of the authors' notes, in epochs.

  Args:
    boundaries: where all rates fall to a tenth.
    conv1_low: where the rates of conv1 fall once more, and the colour noise ends.
    conv1_frozen: where conv1 stops learning.
    epochs: length of the run.
  """
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
  # The epoch at which the colour noise of net 147 ended is not noted; this is the epoch of `base`.
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
  """The config of one of the variants above."""
  recipes.check_variant(variant, VARIANTS)
  recipe = 'original' if variant in ('base', 'centre') else f'original+{variant}'
  return recipes.apply(recipes.get(recipe), VARIANTS[variant])
