"""A state_dict is converted exactly in both directions, with several kinds of names and without PyTorch."""

import os
import stat
import subprocess
import sys

from conversion_helpers import assert_same
import helpers
import ml_dtypes
import numpy as np
import pytest
from tiny import ROOT

from alexnet_jax import interop
from alexnet_jax.errors import UserError
from alexnet_jax.interop import pytorch


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
  """The names may be those of our layers, or any other names in the order of the layers."""
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


def test_dropout_that_scales_at_test_time_is_part_of_the_network():
  """The dropout of the paper halves activations at test time, when that of PyTorch has no effect."""
  model = helpers.get('torchvision', model__dropout__inverted=False).model
  with pytest.raises(
    UserError, match=r"config.model.fc6.then is \('act', 'dropout'\), there \('act',\)"
  ):
    interop.from_torchvision({}, model)
  original = helpers.get('original', model__dropout__rate=0.0).model
  with pytest.raises(UserError, match=r"fc6.then is \('act',\), there \('act', 'dropout'\)"):
    interop.from_cuda_convnet({}, original)


@pytest.mark.parametrize(
  ('variant', 'feature'),
  [('paper+no_communication', 'fc6, fc7'), ('paper+batch_norm', 'batch normalisation')],
)
def test_networks_that_a_state_dict_cannot_represent_are_refused(variant, feature):
  with pytest.raises(UserError, match=f'cannot hold {feature}.*: name the config'):
    interop.from_pytorch({}, helpers.narrow(variant))


def test_state_dicts_of_other_networks_are_refused_as_pytorch():
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


def test_half_precision_is_read_and_integers_are_listed(tmp_path):
  """The integer tensor of batch normalisation in PyTorch is listed as unexpected."""
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


def test_state_dicts_of_other_networks_are_refused_as_torchvision():
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


def test_torchvision_reads_six_by_six_pixels():
  model = helpers.narrow('torchvision', width=1 / 16, input_size=192)
  with pytest.raises(UserError, match=r'36 pixels.* of this network 25: choose --format=pytorch'):
    interop.to_torchvision(helpers.visible_params(model))


def umask() -> int:
  mask = os.umask(0)
  os.umask(mask)
  return mask


def test_state_dict_as_safetensors_needs_no_torch(tmp_path):
  model = helpers.narrow('torchvision', width=1 / 16)
  params = helpers.visible_params(model)
  path = str(tmp_path / 'net.SafeTensors')
  pytorch.write(path, interop.to_torchvision(params))
  assert_same(interop.from_torchvision(pytorch.read(path), model), params)
  assert stat.S_IMODE(os.stat(path).st_mode) == 0o666 & ~umask()
  (tmp_path / 'net.SafeTensors').write_bytes(b'\x10' + bytes(50))
  with pytest.raises(UserError, match='cannot be read as safetensors'):
    pytorch.read(path)
  with pytest.raises(UserError, match='there is no such file'):
    pytorch.read(str(tmp_path / 'none.pth'))


def test_inference_and_conversion_import_neither_torch_nor_tensorflow():
  code = (
    'import sys\nsys.modules["torch"] = sys.modules["tensorflow"] = None\n'
    'import alexnet_jax.inference.predict, alexnet_jax.interop.importer, alexnet_jax.interop.exporter'
  )
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
  ('name', 'kept'),
  [
    ('module.conv1.weight', 'conv1.weight'),  # DataParallel around the network
    ('submodule.conv1.weight', 'submodule.conv1.weight'),
    ('net.module.conv1.weight', 'net.module.conv1.weight'),
    ('features.module.0.weight', 'features.0.weight'),  # DataParallel around the convolutions
  ],
)
def test_prefixes_of_data_parallel_are_removed(name, kept):
  assert list(pytorch._arrays({name: np.zeros(1, np.float32)})) == [kept]


def test_a_submodule_keeps_its_name():
  """An error names the tensors with their names in the file."""
  model = helpers.narrow('torchvision', width=1 / 16)
  state_dict = interop.to_torchvision(helpers.visible_params(model))
  state_dict['submodule.0.weight'] = np.zeros(2, np.float32)
  with pytest.raises(UserError, match=r'submodule.0.weight: expected nothing, found \[2\]'):
    interop.from_torchvision(state_dict, model)
