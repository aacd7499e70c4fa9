"""Planar parameters, the layout of Caffe and PyTorch, are converted exactly in both directions."""

from conversion_helpers import assert_same
import helpers
import pytest

from alexnet_jax.errors import UserError
from alexnet_jax.interop import layout

VARIANTS = ['caffe', 'original', 'owt', 'torchvision', 'paper+conv6', 'original+one_gpu']


@pytest.mark.parametrize('variant', VARIANTS)
def test_planar_round_trip_is_exact(variant):
  model = helpers.narrow(variant, width=1 / 16)
  params = helpers.visible_params(model)
  planar = layout.to_planar(params, model.layers)
  shapes = {k: {n: x.shape for n, x in v.items()} for k, v in planar.items()}
  assert shapes == layout.planar_shapes(model)
  assert_same(layout.from_planar(planar, model), params)


def test_planar_shapes_are_those_of_caffe_and_torchvision():
  """The blob of conv2 is [256, 48, 5, 5] in Caffe (docs/FACTS.md section 8, item 6)."""
  caffes = layout.planar_shapes(helpers.get('caffe').model)
  assert [caffes[f'conv{i}']['weight'] for i in range(1, 6)] == [
    (96, 3, 11, 11),
    (256, 48, 5, 5),
    (384, 256, 3, 3),
    (384, 192, 3, 3),
    (256, 192, 3, 3),
  ]
  assert [caffes[f'fc{i}']['weight'] for i in (6, 7, 8)] == [
    (4096, 9216),
    (4096, 4096),
    (1000, 4096),
  ]
  assert caffes['fc8']['bias'] == (1000,) and caffes['conv2']['bias'] == (256,)


def test_constants_matter_only_for_the_normalisation_that_is_used():
  for variant, used, unused in (
    ('original', 'lrn__k', 'batch_norm__epsilon'),
    ('original+batch_norm', 'batch_norm__epsilon', 'lrn__k'),
  ):
    model = helpers.narrow(variant)
    layout.check_same_function(model, helpers.narrow(variant, **{unused: 0.5}), 'x')
    with pytest.raises(UserError, match=f'config.model.{used.replace("__", ".")} is'):
      layout.check_same_function(model, helpers.narrow(variant, **{used: 0.5}), 'x')


def test_a_first_layer_that_is_fully_connected_needs_one_channel():
  for changes, accepted in (
    ({'gray': True, 'towers': 1}, True),
    ({'gray': True, 'towers': 2}, False),
    ({'gray': False, 'towers': 1}, False),
  ):
    model = helpers.narrow('paper', layers=('fc6', 'fc7', 'fc8'), **changes)
    if accepted:
      layout.check_planar(model, 'x', 'y')
      continue
    with pytest.raises(UserError, match=r'x cannot hold a network whose first layer is fully.*: y'):
      layout.check_planar(model, 'x', 'y')


@pytest.mark.parametrize('towers', [1, 2])
def test_a_last_layer_that_follows_a_convolution(towers):
  """Planar inputs are flattened as (channel, row, column), ours as (row, column, channel) of each tower."""
  model = helpers.narrow(
    'paper',
    width=1 / 16,
    towers=towers,
    layers=('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc8'),
  )
  params = helpers.visible_params(model)
  planar = layout.to_planar(params, model.layers)
  maps = params['conv5']['bias'].shape[-1]
  ours = params['fc8']['kernel'].reshape(towers, 6, 6, maps, 10)
  theirs = planar['fc8']['weight'].reshape(10, towers * maps, 6, 6)
  for tower in range(towers):
    assert theirs[7, tower * maps + 5, 2, 4] == ours[tower, 2, 4, 5, 7]
  assert_same(layout.from_planar(planar, model), params)
