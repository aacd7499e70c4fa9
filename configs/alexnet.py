"""AlexNet on ImageNet, the paper's training run.

Reproduces: Table 2, row "1 CNN": 40.7 % top-1 and 18.2 % top-5 error on ILSVRC-2012 validation, ten views
(recipe `original`, the authors' code). Other recipes: paper (the default), caffe, owt, torchvision;
choices are added with +, as in `original+no_norm` (see alexnet_jax/config/recipes.py).

Command:  python main.py --config=configs/alexnet.py:original --workdir=DIR
          python main.py --config=configs/alexnet.py --workdir=DIR     (recipe `paper`, the literal text)
          python main.py --config=configs/alexnet.py --config.data.source=folder:PATH --workdir=DIR
Expected: as Table 2, with `original`.
Hardware: any; the paper used two GTX 580 for five to six days.
Result:   not measured by us: needs ImageNet.
"""

from alexnet_jax.config import recipes


def get_config(variant='paper'):
  """The config of `RECIPE` or `RECIPE+CHOICE+...`."""
  return recipes.get(variant)
