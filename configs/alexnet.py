"""AlexNet on ImageNet: the training run of the paper.

Reproduces the row "1 CNN" of Table 2, with recipe `original` (the authors' code): 40.7 % top-1 error and
18.2 % top-5 error on the validation images of ILSVRC-2012, with ten views. The variants are the recipes
`paper` (the default, which follows the text of the paper), `original`, `caffe`, `owt` and `torchvision`.
Overrides are added with `+`, as in `original+no_norm` (alexnet_jax/config/overrides.py lists them).

Command:  python main.py --config=configs/alexnet.py:original --workdir=DIR
          python main.py --config=configs/alexnet.py --workdir=DIR     (recipe `paper`)
          python main.py --config=configs/alexnet.py --config.data.source=folder:PATH --workdir=DIR
Expected: the errors above with `original`.
Hardware: any; the paper trained on two GTX 580 GPUs for five to six days.
Result:   not measured yet, because it needs ImageNet.
"""

from alexnet_jax.config import recipes


def get_config(variant='paper'):
  """The config of `RECIPE` or `RECIPE+OVERRIDE+...`."""
  return recipes.get(variant)
