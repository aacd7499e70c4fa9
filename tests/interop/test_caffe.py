"""Networks from Caffe files agree with TensorFlow; damaged files are refused."""

import caffemodel
from conversion_helpers import assert_same, photographs
import helpers
import numpy as np
import peers
import pytest

from alexnet_jax import interop
from alexnet_jax.errors import UserError
from alexnet_jax.interop import caffe, layout


@pytest.mark.parametrize(
  ('variant', 'generation', 'double'),
  [('caffe', 'V2', False), ('caffe', 'V1', True), ('caffe+caffenet', 'V0', False)],
)
def test_a_caffemodel_agrees_with_tensorflow(tmp_path, variant, generation, double):
  model = helpers.narrow(variant)
  planar = peers.planar_weights(layout.planar_shapes(model))
  layers = peers.in_order(planar, pooled_first='caffenet' in variant)
  path = tmp_path / 'net.caffemodel'
  path.write_bytes(caffemodel.caffemodel(layers, generation, double))
  images = photographs(4, model.input_size)
  params = interop.from_caffe(path, model)
  logits = peers.ours(model)(params, images)
  bgr = np.ascontiguousarray(images.transpose(0, 3, 1, 2)[:, ::-1])
  expected = peers.tensorflow_logits(planar, bgr, peers.ORDERS[variant])
  assert helpers.relative_error(logits, expected) < 1e-4
  # A different order of channels or operations would change the logits.
  other = peers.tensorflow_logits(planar, bgr[:, ::-1], peers.ORDERS[variant])
  assert helpers.relative_error(logits, other) > 1e-2
  (order,) = set(peers.ORDERS.values()) - {peers.ORDERS[variant]}
  assert helpers.relative_error(logits, peers.tensorflow_logits(planar, bgr, order)) > 1e-2
  back = layout.to_planar(params, model.layers)
  back['conv1']['weight'] = back['conv1']['weight'][:, ::-1]
  assert_same(back, planar)


def test_caffemodel_with_a_renamed_last_layer(tmp_path):
  model = helpers.narrow('caffe', num_classes=20)
  planar = peers.planar_weights(layout.planar_shapes(model))
  layers = peers.in_order(planar)
  layers['fc8_flickr'] = layers.pop('fc8')
  (tmp_path / 'net').write_bytes(caffemodel.caffemodel(layers))
  params = interop.from_caffe(tmp_path / 'net', helpers.narrow('caffe', num_classes=0))
  np.testing.assert_array_equal(params['fc8']['bias'], planar['fc8']['bias'])


def test_the_order_of_layers_decides_the_recipe(tmp_path):
  layers = peers.in_order(peers.planar_weights(layout.planar_shapes(helpers.narrow('caffe'))))

  def recipe(layers):
    (tmp_path / 'net').write_bytes(caffemodel.caffemodel(layers))
    return caffe.recipe_of(caffe.read(str(tmp_path / 'net')), 'net')

  without_norm = {name: blobs for name, blobs in layers.items() if 'norm' not in name}
  assert recipe(layers) == 'caffe'
  assert recipe(without_norm) == 'caffe+no_norm'
  assert recipe({name: blobs for name, blobs in layers.items() if blobs}) == 'caffe'
  for other in (without_norm | {'norm1': []}, without_norm | {'lrn1': [], 'lrn2': []}):
    with pytest.raises(UserError, match=r'^net has its layers in an order that is neither'):
      recipe(other)


@pytest.mark.parametrize('old', [False, True])
def test_mean_image_of_caffe(tmp_path, old):
  mean = np.random.default_rng(0).uniform(90, 130, (1, 3, 5, 5)).astype(np.float32)
  (tmp_path / 'mean').write_bytes(caffemodel.blob(mean, old))
  np.testing.assert_array_equal(
    caffe.read_mean(str(tmp_path / 'mean')), mean[0, ::-1].transpose(1, 2, 0)
  )
  np.testing.assert_array_equal(
    caffe.read_mean(str(tmp_path / 'mean'), 'rgb'), mean[0].transpose(1, 2, 0)
  )
  (tmp_path / 'gray').write_bytes(caffemodel.blob(mean[:, :1], old))
  with pytest.raises(UserError, match=r'\[1, 5, 5\], not a mean image'):
    caffe.read_mean(str(tmp_path / 'gray'))


def test_damaged_and_incompatible_caffemodels_are_refused(tmp_path):
  model = helpers.narrow('caffe', width=1 / 16)
  layers = peers.in_order(peers.planar_weights(layout.planar_shapes(model)))
  whole = caffemodel.caffemodel(layers)
  path = tmp_path / 'net.caffemodel'

  def error(data, model=model):
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
      interop.from_caffe(path, model)
    assert '\n' not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)

  assert 'is truncated' in error(whole[: len(whole) // 2])
  assert 'is truncated' in error(b'\xff' * 100)
  assert 'in HDF5 format' in error(b'\x89HDF\r\n\x1a\n' + bytes(100))
  assert 'conv1 weight: expected [6, 3, 11, 11], found nothing' in error(b'')
  short = dict(layers) | {'conv4': []}
  assert 'conv4 weight: expected [24, 12, 3, 3], found nothing' in error(
    caffemodel.caffemodel(short)
  )
  wrong = helpers.narrow('caffe', width=1 / 16, num_classes=7)
  assert (
    'fc8 weight: expected [7, 256], found [10, 256]; fc8 bias: expected [7], found [10]'
    in error(whole, wrong)
  )
  assert 'of 7 classes' in error(whole, wrong)
  negative = caffemodel.field(7, caffemodel.field(1, caffemodel.varint(2**64 - 1) * 2))
  for damaged in (
    caffemodel.field(5, b'0' * 7),  # not a whole number of floats
    negative + caffemodel.field(5, b'0' * 4),  # shape [-1, -1]
  ):
    layer = caffemodel.field(1, 'conv1') + caffemodel.field(7, damaged)
    assert 'conv1 has 1 values for shape' in error(caffemodel.field(100, layer))
  extra = layers | {'conv3_bn': [np.zeros((1, 2), np.float32)]}
  assert 'conv3_bn: expected nothing, found [1, 2]' in error(caffemodel.caffemodel(extra))
  bad = caffemodel.field(
    100, caffemodel.field(1, 'conv1') + caffemodel.field(7, caffemodel.field(5, b'0' * 8))
  )
  assert 'conv1 has 2 values for shape' in error(bad)
  pooled_first = peers.in_order(
    peers.planar_weights(layout.planar_shapes(model)), pooled_first=True
  )
  assert (
    "config.model.conv1.then is ('act', 'norm', 'pool'), there ('act', 'pool', 'norm')"
    in error(caffemodel.caffemodel(pooled_first))
  )
