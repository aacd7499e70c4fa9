"""A two-tower AlexNet that learns from real photographs in minutes on two CPU cores.

Every layer and the whole code path are the paper's; only the widths are an eighth. The images are the
2,624 solar cells inside the PyPI package elpv-dataset; the task is to tell mono- from polycrystalline.

Command:  bash launch/quickstart.sh
          (which runs python main.py --config=configs/quickstart.py --workdir=DIR, then --mode=eval)
Expected: top-1 error of at most 6 % over all validation images, ten views.
Hardware: 2 CPU cores; under 4 minutes of training with both to itself (see RESULTS.md).
"""

from alexnet_jax.config import recipes


def get_config(variant='original'):
  """The quickstart with the network of `RECIPE` or `RECIPE+CHOICE+...`."""
  config = recipes.get(variant)
  return recipes.apply(
    config,
    {
      'model.width': 0.125,
      # The original's constants are for full widths and 1000 classes; this init scales with them.
      'model.init': 'torch',
      'data.source': 'elpv',
      'data.task': 'type',
      'optim.rate': 0.005,
      'optim.bias_rate': 0.005,
      'optim.schedule': 'steps',
      'optim.unit': 'epoch',
      'optim.boundaries': (14.0, 18.0),
      'optim.bias_factor': 0.1,
      'optim.layer_rates': (),
      'augment.colour_until': 0.0,
      'train.epochs': 20.0,
      'train.steps': 0,
      'train.batch_size': 32,
      'train.log_every': 10,
      'train.stall_steps': 0,
      'eval.views': 10,
      'eval.baseline': True,
    },
  )
