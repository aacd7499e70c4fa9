"""LeNet-5 (1998) on MNIST: the 60 k parameters with which every account of AlexNet begins.

Its authors report 0.8 to 0.95 % test error. Ours is alexnet_jax/models/lenet.py, which says where it is
simpler; images are scaled to a spread of about 1 as in 1998, the squared error of that paper is the
cross-entropy here, and its second-order rates are plain momentum. The initial weights of 1998, within 2.4 by
the number of inputs, need those rates: with plain momentum the loss stayed at ln 10 (CIFAR-10, an epoch, of
a net that squashed sums of convolutions only after pooling). So they are drawn as PyTorch draws them, with
which the loss is 1.97 after 300 steps; `--config.model.init=normal` has the spread of 1998.

Command:  python main.py --config=configs/lenet.py:mnist --workdir=DIR
          python main.py --config=configs/lenet.py:cifar10 --workdir=DIR   (the same on CIFAR-10, in gray)
Expected: about 1 % test error on MNIST (1998); not run by us: MNIST was not at hand.
Hardware: any; seconds an epoch on 2 CPU cores.
"""

from alexnet_jax.config import recipes
from alexnet_jax.errors import UserError
from alexnet_jax.models import lenet, spec

VARIANTS = {'mnist': 'tfds:mnist', 'cifar10': 'tfds:cifar10'}


def get_config(variant='mnist'):
  """LeNet-5 on `mnist` or `cifar10`."""
  if variant not in VARIANTS:
    raise UserError(f'unknown variant {variant!r}: choose one of {", ".join(VARIANTS)}')
  config = recipes.get('paper')
  config.recipe, config.note = f'lenet:{variant}', ''
  spec.replace_layers(config.model, lenet.lenet5())
  return recipes.apply(
    config,
    {
      'model.name': 'lenet5',
      'model.towers': 1,
      'model.input_size': 28,
      'model.gray': True,
      'model.init': 'torch',
      'model.activation': lenet.ACTIVATION,
      'model.pool.window': 2,
      'data.source': VARIANTS[variant],
      'data.canvas.size': 28,
      'augment.crop': 'centre',
      'augment.flip': False,
      'augment.colour': 0.0,
      'augment.mean': 'channel',
      'augment.std': (78.0, 78.0, 78.0),  # grey levels; MNIST's spread
      'optim.rate': 0.01,
      'optim.bias_rate': 0.01,
      'optim.decay': 0.0,
      'optim.schedule': 'steps',
      'optim.boundaries': (10.0, 15.0),
      'train.epochs': 20.0,
      'train.stall_steps': 0,
      'eval.views': 1,
    },
  )
