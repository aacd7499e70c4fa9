"""Weights of Caffe, torchvision and cuda-convnet: the same function after the way in, the same bits back."""

import os
import pickle
import stat
import subprocess
import sys

import caffemodel
from conversion_helpers import assert_same, photographs
import helpers
import ml_dtypes
import numpy as np
import peers
import pytest
from safetensors.numpy import save_file
from tiny import ROOT

from alexnet_jax import interop
from alexnet_jax.errors import UserError
from alexnet_jax.interop import caffe, cuda_convnet, layout, pytorch

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
  """FACTS section 8, item 6: conv2 is [256, 48, 5, 5] in Caffe, as Caffe's own blobs are."""
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


@pytest.mark.parametrize(
  ('variant', 'generation', 'double'),
  [('caffe', 'V2', False), ('caffe', 'V1', True), ('caffe+caffenet', 'V0', False)],
)
def test_caffemodel_computes_what_tensorflow_ops_compute(tmp_path, variant, generation, double):
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
  # The test sees each choice: colours, order of layer, flatten order.
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


def test_damaged_and_other_caffemodels(tmp_path):
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


def test_cuda_convnet_layout_is_that_of_its_matrices():
  """Rows are (channel, y, x) of one source, columns filters (FACTS section 1.2)."""
  model = helpers.narrow('original', width=1 / 16)
  params = helpers.visible_params(model)
  matrices = interop.to_cuda_convnet(params)
  assert {name: x.shape for name, x in matrices.items() if 'conv2' in name or 'fc1000' in name} == {
    'conv2a/weights/0': (3 * 25, 8),
    'conv2a/biases': (8,),
    'conv2b/weights/0': (3 * 25, 8),
    'conv2b/biases': (8,),
    'fc1000/weights/0': (128, 10),
    'fc1000/weights/1': (128, 10),
    'fc1000/biases': (10,),
  }
  kernel, matrix = params['conv2']['kernel'], matrices['conv2b/weights/0']
  assert matrix[2 * 25 + 3 * 5 + 4, 6] == kernel[1, 3, 4, 2, 6]
  kernel, matrix = params['conv3']['kernel'], matrices['conv3a/weights/1']
  assert matrix[5 * 9 + 1 * 3 + 2, 7] == kernel[0, 1, 2, 8 + 5, 7]
  kernel, matrix = params['fc6']['kernel'], matrices['fc2048b/weights/1']
  assert matrix[3 * 36 + 4 * 6 + 5, 9] == kernel[1, (4 * 6 + 5) * 16 + 8 + 3, 9]
  kernel, matrix = params['fc8']['kernel'], matrices['fc1000/weights/1']
  assert matrix[11, 4] == kernel[1, 11, 4]
  assert_same(interop.from_cuda_convnet(matrices, model), params)
  column = matrices | {
    'conv1a/biases': matrices['conv1a/biases'][:, None]
  }  # as cuda-convnet has them
  assert_same(
    interop.from_cuda_convnet(column, helpers.narrow('original', 1 / 16, num_classes=0)), params
  )


def test_cuda_convnet_files(tmp_path):
  model = helpers.narrow('original', width=1 / 16)
  matrices = interop.to_cuda_convnet(helpers.visible_params(model))
  np.savez(tmp_path / 'a.npz', **matrices)
  save_file(matrices, tmp_path / 'a.safetensors')
  for name in ('a.npz', 'a.safetensors'):
    read = cuda_convnet.read(str(tmp_path / name))
    assert all(np.array_equal(read[key], matrices[key]) for key in matrices)
  (tmp_path / 'pickled').write_bytes(pickle.dumps(matrices))
  np.savez(tmp_path / 'objects.npz', x=np.array([{}], object))
  for name in ('pickled', 'objects.npz'):
    with pytest.raises(UserError, match='of plain arrays'):
      cuda_convnet.read(str(tmp_path / name))
  with pytest.raises(UserError, match='there is no such file'):
    cuda_convnet.read(str(tmp_path / 'none.npz'))
  matrices['conv3b/weights/1'] = matrices['conv3b/weights/1'][:-1]
  del matrices['fc2048a/biases']
  with pytest.raises(UserError, match=r'fc2048a/biases: expected \[128\], found nothing') as error:
    interop.from_cuda_convnet(matrices, model)
  assert 'conv3b/weights/1: expected [72, 12], found [71, 12]' in str(error.value)


def test_torchvision_round_trip_is_exact():
  model = helpers.narrow('torchvision', width=1 / 16)
  params = helpers.visible_params(model)
  state_dict = interop.to_torchvision(params)
  assert state_dict['features.3.weight'].shape == (12, 4, 5, 5)
  assert state_dict['classifier.6.weight'].shape == (10, 256)
  assert_same(interop.from_torchvision(state_dict, model), params)
  parallel = {name.replace('features.', 'features.module.'): x for name, x in state_dict.items()}
  assert_same(interop.from_torchvision(parallel, model), params)


@pytest.mark.parametrize('variant', ['caffe', 'paper+conv6', 'torchvision', 'original+one_gpu'])
def test_pytorch_round_trip_is_exact(variant):
  """Under the names of our layers, and under others in their order."""
  model = helpers.narrow(variant, width=1 / 16)
  params = helpers.visible_params(model)
  state_dict = interop.to_pytorch(params, model)
  if model.towers == 2:
    assert state_dict['conv2.weight'].shape == (16, 3, 5, 5)  # [256, 48, 5, 5], groups=2
  free = helpers.narrow(variant, width=1 / 16, num_classes=0)
  assert_same(interop.from_pytorch(state_dict, free), params)
  assert_same(interop.from_pytorch(dict(reversed(state_dict.items())), model), params)
  renamed = {
    f'net.{i // 2}.{x.rpartition(".")[2]}': state_dict[x] for i, x in enumerate(state_dict)
  }
  assert_same(interop.from_pytorch(renamed, model), params)


def test_dropout_that_halves_is_part_of_the_function():
  """The paper's, at test time; a peer whose dropout does nothing then computes something else."""
  model = helpers.get('torchvision', model__dropout__inverted=False).model
  with pytest.raises(
    UserError, match=r"config.model.fc6.then is \('act', 'dropout'\), there \('act',\)"
  ):
    interop.from_torchvision({}, model)
  original = helpers.get('original', model__dropout__rate=0.0).model
  with pytest.raises(UserError, match=r"fc6.then is \('act',\), there \('act', 'dropout'\)"):
    interop.from_cuda_convnet({}, original)


@pytest.mark.parametrize(
  ('variant', 'said'),
  [('paper+no_communication', 'fc6, fc7'), ('paper+batch_norm', 'batch normalisation')],
)
def test_networks_that_pytorch_files_have_no_room_for(variant, said):
  with pytest.raises(UserError, match=f'cannot hold {said}'):
    interop.from_pytorch({}, helpers.narrow(variant))


def test_state_dicts_of_other_networks_as_pytorch():
  model = helpers.narrow('caffe', width=1 / 16)
  state_dict = interop.to_pytorch(helpers.visible_params(model), model)
  renamed = {f'x{name}': x for name, x in state_dict.items()}
  with pytest.raises(UserError, match=r'xfc8.bias: expected \[7\], found \[10\]'):
    interop.from_pytorch(renamed, helpers.narrow('caffe', width=1 / 16, num_classes=7))
  del renamed['xfc8.weight'], renamed['xfc8.bias']
  with pytest.raises(UserError, match=r'fc8.weight: expected \[1000, 256\], found nothing'):
    interop.from_pytorch(renamed, helpers.narrow('caffe', width=1 / 16, num_classes=0))
  with pytest.raises(UserError, match=r'conv2.weight: expected \[16, 6, 5, 5\], found \[16, 3'):
    interop.from_pytorch(state_dict, helpers.narrow('caffe', width=1 / 16, towers=1))


def test_tensors_of_other_types(tmp_path):
  """Half precision is read; the counts of another network's batch normalisation are listed."""
  model = helpers.narrow('torchvision', width=1 / 16)
  halves = {
    name: x.astype(ml_dtypes.bfloat16)
    for name, x in interop.to_torchvision(helpers.visible_params(model)).items()
  }
  path = str(tmp_path / 'net.safetensors')
  pytorch.write(path, halves)
  params = interop.from_torchvision(pytorch.read(path), model)
  assert params['conv1']['kernel'].dtype == np.float32
  np.testing.assert_array_equal(params['fc8']['bias'], halves['classifier.6.bias'])
  resnet = {'conv1.weight': np.zeros((64, 3, 7, 7)), 'bn1.num_batches_tracked': np.array(0)}
  with pytest.raises(UserError, match=r'bn1.num_batches_tracked: expected nothing, found \[\]'):
    interop.from_torchvision(resnet)


def test_state_dicts_of_other_networks():
  model = helpers.narrow('torchvision', width=1 / 16)
  state_dict = interop.to_torchvision(helpers.visible_params(model))
  with pytest.raises(
    UserError, match=r'features.0.weight: expected \[64, 3, 11, 11\], found \[4, 3,'
  ):
    interop.from_torchvision(state_dict)
  wrong = helpers.narrow('torchvision', width=1 / 16, num_classes=7)
  with pytest.raises(UserError, match=r'classifier.6.bias: expected \[7\], found \[10\]'):
    interop.from_torchvision(state_dict, wrong)
  resnet = {'conv1.weight': np.zeros((64, 3, 7, 7), np.float32)}
  with pytest.raises(
    UserError, match=r'conv1.weight: expected nothing, found \[64, 3, 7, 7\]'
  ) as error:
    interop.from_torchvision(resnet)
  assert 'classifier.6.weight: expected [1000, 4096], found nothing' in str(error.value)
  assert '\n' not in str(error.value)
  with pytest.raises(
    UserError, match=r'another network than the config \(config.model.conv1.padding'
  ):
    interop.from_torchvision(state_dict, helpers.narrow('owt', width=1 / 16))
  with pytest.raises(UserError, match="'epoch', which is not a tensor"):
    interop.from_torchvision({'epoch': 3})
  with pytest.raises(UserError, match=r'cannot hold the layers conv1 \[2, 11, 11, 3, 3\]'):
    interop.to_torchvision(helpers.visible_params(helpers.narrow('caffe', width=1 / 16)))


def umask() -> int:
  mask = os.umask(0)
  os.umask(mask)
  return mask


def test_state_dict_as_safetensors_needs_no_torch(tmp_path):
  model = helpers.narrow('torchvision', width=1 / 16)
  params = helpers.visible_params(model)
  path = str(tmp_path / 'net.safetensors')
  pytorch.write(path, interop.to_torchvision(params))
  assert_same(interop.from_torchvision(pytorch.read(path), model), params)
  assert stat.S_IMODE(os.stat(path).st_mode) == 0o666 & ~umask()
  (tmp_path / 'net.safetensors').write_bytes(b'\x10' + bytes(50))
  with pytest.raises(UserError, match='cannot be read as safetensors'):
    pytorch.read(path)
  with pytest.raises(UserError, match='there is no such file'):
    pytorch.read(str(tmp_path / 'none.pth'))


def test_importing_it_needs_neither_torch_nor_tensorflow():
  code = (
    'import sys\nsys.modules["torch"] = sys.modules["tensorflow"] = None\n'
    'import alexnet_jax.inference.predict, alexnet_jax.interop.importer, alexnet_jax.interop.exporter'
  )
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
