"""ILSVRC-2012, Table 2 of the paper: one CNN, and five averaged. Its last two rows are in cnn_star.py.

  row              variant                   paper (validation)  lab notes
  1 CNN            cnn (net 145)             40.7 / 18.2         40.664 / 18.210
  5 CNNs           cnn, seeds 0-4, averaged  38.1 / 16.4         not noted
  after the paper  dexp (net 170)            -                   40.53 / 18.05; centre 42.34 / 19.58

The paper's five were most likely nets 120-2012, 131, 135, 137 and 145, all but the last with a second path
that sees a blurred image (FACTS sections 0 and 4), which we do not have: ours are five seeds of one net.

Command:  python main.py --config=configs/ilsvrc2012.py:cnn --workdir=DIR
          python experiments/table2.py --source=SOURCE --workdir=DIR --output=DIR/table2.json   (both rows)
Expected: the table above, on all 50,000 validation images and ten views.
Hardware: any; the paper's two GTX 580 took five to six days a network.
Result:   not measured by us: needs ImageNet.
"""

from alexnet_jax.config import recipes
from alexnet_jax.errors import UserError

# Recipes; dexp is the schedule that its authors settled on afterwards: 250 times down in four parts.
VARIANTS = {'cnn': 'original', 'dexp': 'original+dexp'}


def get_config(variant='cnn'):
  """The config of a variant of the table above."""
  if variant not in VARIANTS:
    raise UserError(f'unknown variant {variant!r}: choose one of {", ".join(VARIANTS)}')
  return recipes.get(VARIANTS[variant])
