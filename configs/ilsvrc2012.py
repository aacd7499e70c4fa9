"""ILSVRC-2012: the rows "1 CNN" and "5 CNNs" of Table 2. The last two rows are in cnn_star.py.

Reproduces (errors in per cent; docs/FACTS.md, section 0, cites the authors' notes):

  row              variant                   paper (validation)  the authors' notes
  1 CNN            cnn (net 145)             40.7 / 18.2         40.664 / 18.210
  5 CNNs           cnn, seeds 0-4, averaged  38.1 / 16.4         not noted
  after the paper  dexp (net 170)            -                   40.53 / 18.05; centre 42.34 / 19.58

The five networks of the paper were most likely nets 120-2012, 131, 135, 137 and 145. All but the last have a
second path that reads a blurred image (FACTS sections 0 and 4), which we lack, so ours are five seeds of one
network.

Command:  python main.py --config=configs/ilsvrc2012.py:cnn --workdir=DIR
          python experiments/table2.py --source=SOURCE --workdir=DIR --output=DIR/table2.json   (both rows)
Expected: the errors above, on all 50,000 validation images with ten views.
Hardware: any; the paper trained each network on two GTX 580 GPUs for five to six days.
Result:   not measured yet, because it needs ImageNet.
"""

from alexnet_jax.config import recipes

# The recipe of each variant. `dexp` is the authors' later schedule: the rate falls by 250 in four parts.
VARIANTS = {'cnn': 'original', 'dexp': 'original+dexp'}


def get_config(variant='cnn'):
  """The config of one of the variants above."""
  recipes.check_variant(variant, VARIANTS)
  return recipes.get(VARIANTS[variant])
