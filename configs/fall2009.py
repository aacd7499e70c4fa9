"""The 10,184 classes of ImageNet's release of Fall 2009 (section 6 of the paper).

67.4 % top-1 and 40.9 % top-5 error, half of the images for training and half for test, with a sixth
convolution on the last pool. Published before: 78.1 / 60.9. The lab's net was "141-2009-half", with a second
path for a blurred image that ours lacks; its result is not noted, those of its forerunners with five
convolutions are 69.38 / 43.65 (2009-101) and 69.42 / 43.73 (131-2009).

Command:  python main.py --config=configs/fall2009.py --config.data.source=folder:PATH --workdir=DIR
          (a folder without `val`: a seeded half of each class is held out)
          python main.py --mode=eval --workdir=DIR --checkpoint=latest
Expected: 67.4 / 40.9.
Hardware: any; how long the paper's run took is not known.
Result:   not measured by us: needs ImageNet, the whole release of Fall 2009.
"""

from alexnet_jax.config import recipes


def get_config():
  """Net 145 with conv6 on 10,184 classes."""
  return recipes.apply(
    recipes.get('original+conv6'),
    {
      'model.num_classes': 10_184,
      'data.source': 'folder:data/imagenet-fall-2009',
      'data.holdout': 0.5,
      # FACTS section 4; at 18.24 it was conv1 and conv2 alone that fell, and the noise that ended.
      'optim.boundaries': (6.26, 13.34, 21.19, 25.37),
      'optim.layer_rates': (('conv1', 18.24, 0.1), ('conv2', 18.24, 0.1)),
      'augment.colour_until': 18.24,
      'train.epochs': 28.3,
    },
  )
