"""A two-tower AlexNet that learns from photographs in minutes on two CPU cores.

Reproduces no number of the paper. It runs the paper's layers and the whole code path with an eighth of the
features. The images are the 2,624 photographs of solar cells in the PyPI package elpv-dataset; the task is to
tell monocrystalline from polycrystalline cells.

Command:  bash launch/quickstart.sh
          (which runs python main.py --config=configs/quickstart.py --workdir=DIR, then --mode=eval)
Expected: a top-1 error of at most 6 % over all validation images, with ten views.
Hardware: 2 CPU cores; training and evaluation take about 3 minutes if nothing else runs on them (RESULTS.md).
"""

from alexnet_jax.config import recipes


def get_config(variant='original'):
  """The config of the quickstart with the network of `RECIPE` or `RECIPE+OVERRIDE+...`."""
  return recipes.get(
    variant,
    {
      'model.width': 0.125,
      # The original's standard deviations suit the full width and 1000 classes; `torch` adapts to the width.
      'model.init': 'torch',
      'data.source': 'elpv',
      'data.task': 'type',
      'optim.rate': 0.005,
      'optim.bias_rate': 0.005,
      'optim.scaling.batch': 32,
      'optim.schedule': 'steps',
      'optim.unit': 'epoch',
      'optim.boundaries': (14.0, 18.0),
      'optim.bias_factor': 0.1,
      'optim.layer_rates': (),
      'augment.colour_until': 0.0,
      'train.epochs': 20.0,
      'train.batch_size': 32,
      'train.log_every': 10,
      'train.stall_steps': 0,
      'eval.baseline': True,
    },
  )
