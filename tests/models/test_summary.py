"""The table of layers has the published shapes, parameters and multiply-adds."""

import functools

from helpers import get, shapes
import jax
import jax.numpy as jnp
from ml_collections import FrozenConfigDict
import pytest

from alexnet_jax import models
from alexnet_jax.config import load_file, recipes
from alexnet_jax.errors import UserError

RECIPES = ('paper', 'original', 'caffe', 'owt', 'torchvision')
TWO_TOWERS = ('paper', 'original', 'caffe')


@functools.cache
def table(variant, **overrides):
  """Returns the rows of `layer_table`, keyed by the name of the layer."""
  return {row['layer']: row for row in models.layer_table(get(variant, **overrides).model)}


def total(variant, key, **overrides):
  return sum(row[key] for row in table(variant, **overrides).values())


@pytest.mark.parametrize(
  ('variant', 'parameters', 'macs'),
  [
    ('paper', 60_965_224, 724_406_816),
    ('original', 60_965_224, 724_406_816),
    ('caffe', 60_965_224, 724_406_816),
    ('owt', 61_100_840, 714_188_480),
    ('torchvision', 61_100_840, 714_188_480),
    ('paper+one_gpu', 59_798_312, 391_514_384),
    ('original+one_gpu', 59_798_312, 391_514_384),
    ('original+conv6', 61_555_304, 745_640_480),
    ('paper+no_norm', 60_965_224, 724_406_816),
    # This is net 150 of docs/FACTS.md section 7.
    ('paper+no_communication', 60_714_408, 724_323_872),
  ],
)
def test_totals_of_parameters_and_multiply_adds(variant, parameters, macs):
  assert total(variant, 'parameters') == parameters
  assert total(variant, 'macs') == macs


def test_totals_of_the_network_of_2009():
  """It has 10,184 classes and six convolutions."""
  assert total('original+conv6', 'parameters', model__num_classes=10_184) == 99_182_152
  assert total('original+conv6', 'macs', model__num_classes=10_184) == 783_258_144


PAPER_LAYERS = {
  'conv1': (34_944, 105_415_200),
  'conv2': (307_456, 223_948_800),
  'conv3': (885_120, 149_520_384),
  'conv4': (663_936, 112_140_288),
  'conv5': (442_624, 74_760_192),
  'fc6': (37_752_832, 37_748_736),
  'fc7': (16_781_312, 16_777_216),
  'fc8': (4_097_000, 4_096_000),
}


@pytest.mark.parametrize('variant', TWO_TOWERS)
def test_layers_of_two_towers(variant):
  rows = table(variant)
  found = {name: (rows[name]['parameters'], rows[name]['macs']) for name in PAPER_LAYERS}
  assert found == PAPER_LAYERS
  sides = {name: row['output'] for name, row in rows.items() if len(row['output']) == 3}
  assert sides == {
    'conv1': (55, 55, 96),
    'pool1': (27, 27, 96),
    'conv2': (27, 27, 256),
    'pool2': (13, 13, 256),
    'conv3': (13, 13, 384),
    'conv4': (13, 13, 384),
    'conv5': (13, 13, 256),
    'pool5': (6, 6, 256),
  }


@pytest.mark.parametrize('variant', ['owt', 'torchvision'])
def test_layers_of_one_tower(variant):
  expected = (23_296, 307_392, 663_936, 884_992, 590_080, 37_752_832, 16_781_312, 4_097_000)
  rows = table(variant)
  assert tuple(rows[name]['parameters'] for name in PAPER_LAYERS) == expected
  sides = [row['output'][0] for row in rows.values() if len(row['output']) == 3]
  assert sides == [55, 27, 27, 13, 13, 13, 13, 6]


def test_layers_of_the_one_gpu_network():
  """Only conv1 to conv4 are halved, which keeps the number of parameters similar (paper, footnote 2)."""
  expected = (17_472, 153_728, 221_376, 331_968, 442_624, 37_752_832, 16_781_312, 4_097_000)
  rows = table('paper+one_gpu')
  assert tuple(rows[name]['parameters'] for name in PAPER_LAYERS) == expected


def test_parameters_have_a_tower_axis():
  """All parameters but the last bias have a leading tower axis."""
  params = shapes(FrozenConfigDict(get().model))['params']
  assert jax.tree.map(lambda leaf: leaf.shape, params) == {
    'conv1': {'kernel': (2, 11, 11, 3, 48), 'bias': (2, 48)},
    'conv2': {'kernel': (2, 5, 5, 48, 128), 'bias': (2, 128)},
    'conv3': {'kernel': (2, 3, 3, 256, 192), 'bias': (2, 192)},
    'conv4': {'kernel': (2, 3, 3, 192, 192), 'bias': (2, 192)},
    'conv5': {'kernel': (2, 3, 3, 192, 128), 'bias': (2, 128)},
    'fc6': {'kernel': (2, 9216, 2048), 'bias': (2, 2048)},
    'fc7': {'kernel': (2, 4096, 2048), 'bias': (2, 2048)},
    'fc8': {'kernel': (2, 2048, 1000), 'bias': (1000,)},
  }
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype('float32')}


@pytest.mark.parametrize(
  ('variant', 'layer', 'kernel'),
  [
    ('paper+one_gpu', 'conv3', (1, 3, 3, 128, 192)),
    ('torchvision', 'conv2', (1, 5, 5, 64, 192)),
    ('paper+conv6', 'conv6', (2, 3, 3, 256, 128)),  # conv6 also reads both towers
    # conv4 reads both towers, as conv3 does otherwise.
    ('paper+no_conv3', 'conv4', (2, 3, 3, 256, 192)),
    ('paper+no_conv4', 'conv5', (2, 3, 3, 192, 128)),
    # fc6 reads 6 x 6 x 384 values, which are pooled after conv4.
    ('paper+no_conv5', 'fc6', (2, 13_824, 2048)),
    ('paper+no_overlap', 'fc6', (2, 9216, 2048)),
  ],
)
def test_kernel_shapes_with_overrides(variant, layer, kernel):
  params = shapes(FrozenConfigDict(get(variant).model))['params']
  assert params[layer]['kernel'].shape == kernel
  assert ('conv6' in params) == ('conv6' in variant)
  removed = {f'conv{n}' for n in '345' if f'no_conv{n}' in variant}
  assert not removed & params.keys()


def test_the_geometry_without_overlapping_pooling():
  """With 2x2 pooling, other paddings keep the input of fc6 at 6x6 pixels (net 147, FACTS section 1.2)."""
  sides = [
    row['output'][0] for row in table('paper+no_overlap').values() if len(row['output']) == 3
  ]
  names = [name for name, row in table('paper+no_overlap').items() if len(row['output']) == 3]
  assert dict(zip(names, sides, strict=True)) == {
    'conv1': 55,
    'pool1': 28,
    'conv2': 26,
    'pool2': 13,
    'conv3': 13,
    'conv4': 13,
    'conv5': 11,
    'pool5': 6,
  }


def test_width_scales_all_layers_but_the_last():
  """A width of 0.5 halves their features."""
  outputs = {name: row['output'][-1] for name, row in table('paper', model__width=0.5).items()}
  assert [outputs[name] for name in PAPER_LAYERS] == [48, 128, 192, 192, 128, 2048, 2048, 1000]


def test_a_too_small_input_is_refused():
  with pytest.raises(
    UserError, match='input_size=30 is too small: the maps at conv5 have no pixels'
  ):
    table('paper+no_overlap', model__input_size=30)
  with pytest.raises(UserError, match='the maps at local3 have no pixels'):
    models.layer_table(
      recipes.apply(load_file('cifar10:conv_local_11pct'), {'model.local3.size': 11}).model
    )


def test_the_first_layer_reads_the_image_once():
  """Both towers see the same image, so that there is nothing to exchange."""
  assert table('paper', model__conv1__exchange=True)['conv1']['parameters'] == 34_944
  params = shapes(FrozenConfigDict(get('paper', model__layers=('fc6', 'fc8')).model))['params']
  assert params['fc6']['kernel'].shape == (2, 224 * 224 * 3, 2048)
