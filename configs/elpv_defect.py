"""Defective solar cells: a harder task on the embedded photographs, with a longer run.

Reproduces no number of the paper. The images are the 2,624 electroluminescence images of the quickstart; the
task is to tell cells that are probably defective (an annotated probability of at least 0.5) from the others.

Command:  python main.py --config=configs/elpv_defect.py --workdir=DIR
          python main.py --mode=eval --workdir=DIR --checkpoint=latest
          python experiments/seeds.py --config=configs/elpv_defect.py --workdir=DIR --seeds=0,1,2 \\
            --output=DIR/seeds.json   (three seeds)
Expected: 19.2 % error, the mean of three seeds with ten views (RESULTS.md).
Hardware: 2 CPU cores; 15 to 19 minutes for each seed while the machine also ran other programs.
"""

from alexnet_jax.config import recipes


def get_config(variant='original'):
  """The config of the task with the network of `RECIPE` or `RECIPE+OVERRIDE+...`."""
  return recipes.get(
    variant,
    {
      'model.width': 0.125,
      'model.init': 'torch',
      'data.source': 'elpv',
      'data.task': 'defect',
      'optim.rate': 0.005,
      'optim.bias_rate': 0.005,
      'optim.scaling.batch': 32,
      'optim.schedule': 'steps',
      'optim.unit': 'epoch',
      'optim.boundaries': (21.0, 27.0),
      'optim.bias_factor': 0.1,
      'optim.layer_rates': (),
      'augment.colour_until': 0.0,
      'train.epochs': 30.0,
      'train.batch_size': 32,
      'train.stall_steps': 0,
      'eval.baseline': True,
    },
  )
