"""Published errors to compare a run with: those of the paper and of the authors' notes.

The sources are in docs/reproducing.md and in sections 0, 5 and 6 of docs/FACTS.md.
"""

from collections.abc import Sequence
from typing import NamedTuple

from alexnet_jax.data import imagenet

_CIFAR10 = {
  'airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck',
}  # fmt: skip


class Row(NamedTuple):
  """A published result.

  Attributes:
    name: the network and how it was tested.
    top1: top-1 error in per cent.
    top5: top-5 error in per cent, or None if it was not published.
  """

  name: str
  top1: float
  top5: float | None = None


class Images(NamedTuple):
  """A set of images with published results.

  Attributes:
    what: the images.
    rows: results to compare every recipe with.
    recipes: further results for single recipes.
    differs: how the training of the published networks differed, in whole sentences; empty if not stated.
  """

  what: str
  rows: tuple[Row, ...]
  recipes: dict[str, tuple[Row, ...]]
  differs: str = ''


_TABLE_2 = (Row('the paper, Table 2, 1 CNN, ten views', 40.7, 18.2),)
_CNN_STAR = (Row('the paper, Table 2, 1 CNN*, pre-trained on more images, ten views', 39.0, 16.6),)

ILSVRC_2012 = Images(
  'the 50,000 validation images of ILSVRC-2012',
  _TABLE_2,
  {
    'original+conv6': _CNN_STAR,
    'original+dexp': (
      Row("the authors' notes, net 170, the later schedule, ten views", 40.5, 18.1),
      Row("the authors' notes, net 170, the later schedule, one view", 42.3, 19.6),
    ),
    'original+no_norm': (
      Row("the authors' notes, net 148, no normalisation, ten views", 42.0, 19.4),
    ),
    'original+no_overlap': (
      Row("the authors' notes, net 147, no overlapping pooling, ten views", 41.1, 18.5),
    ),
    'original+no_communication': (
      Row("the authors' notes, net 150, no exchange between towers, ten views", 41.8, 19.3),
    ),
    'caffe': (Row("Caffe's AlexNet, one view", 42.9, 19.8),),
    'caffe+caffenet': (Row("Caffe's CaffeNet, one view", 42.6, 19.6),),
    'owt': (
      Row('the author of this network, ten views', 40.4, 18.2),
      Row('the author of this network, one view', 42.5, 19.8),
    ),
    'torchvision': (Row("torchvision's AlexNet, one view", 43.5, 20.9),),
  },
)
ILSVRC_2010 = Images(
  'the 150,000 test images of ILSVRC-2010',
  (
    Row('the paper, Table 1, ten views', 37.5, 17.0),
    Row('the paper, section 6, one view', 39.0, 18.3),
  ),
  {'original+one_gpu': (Row("the authors' notes, net 145-half, one GPU, ten views", 39.2, 18.2),)},
)
FALL_2009 = Images(
  'half of the images of the Fall 2009 release of ImageNet',
  (
    Row('the paper, section 6, ten views', 67.4, 40.9),
    Row('the best result before the paper', 78.1, 60.9),
  ),
  {},
)
CIFAR_10 = Images(
  'the 10,000 test images of CIFAR-10',
  (
    Row('the paper, section 3.3, without normalisation', 13.0),
    Row('the paper, section 3.3, with normalisation', 11.0),
  ),
  {
    'cifar10:19pct': (Row('the author of this network', 19.0),),
    'cifar10:18pct': (Row('the author of this network', 18.0),),
    'cifar10:80sec': (Row('the author of this network, after 80 seconds', 26.0),),
  },
  'The two networks of section 3.3 were trained on four fifths of the training images first and then on '
  'all of them. docs/reproducing.md has commands for this.',
)
MNIST = Images(
  'the 10,000 test images of MNIST',
  (Row('LeNet-5 in 1998', 0.95), Row('LeNet-5 in 1998, also trained on distorted images', 0.8)),
  {},
)


def images_of(recipe: str, class_names: Sequence[str]) -> Images | None:
  """Returns the published results to compare a network with; None if there are none.

  Args:
    recipe: name of the recipe. Ten digits count as MNIST only for the recipe `lenet:mnist`.
    class_names: names of the classes. They identify the images, since a config can be used with any
      images.
  """
  names = set(class_names)
  if names == _CIFAR10:
    return CIFAR_10
  if recipe == 'lenet:mnist' and names == set('0123456789'):
    return MNIST
  if imagenet.is_imagenet(tuple(class_names)):
    if len(names) == 10_184:
      return FALL_2009
    if len(names) == 1000:
      return ILSVRC_2012 if names == set(imagenet.wnids_of_2012()) else ILSVRC_2010
  return None


def rows_of(recipe: str, images: Images) -> tuple[Row, ...]:
  """Returns the published results to show for a run of `recipe` on `images`."""
  return (*images.rows, *images.recipes.get(recipe, ()))
