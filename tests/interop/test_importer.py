"""`--mode=import` writes complete workdirs, and refuses invalid input."""

import caffemodel
from conversion_helpers import assert_same, fail, params_of, photographs, run, trained
import helpers
import jax
import numpy as np
import peers
import pytest
from safetensors.numpy import load_file
from tiny import ROOT

from alexnet_jax import config as config_lib
from alexnet_jax import interop
from alexnet_jax.evaluation import loading
from alexnet_jax.interop import layout
from alexnet_jax.workdir import archive

NARROW = '--config.model.width=0.0625'


def test_torchvision_weights_are_imported_and_exported(tmp_path, capsys):
  model = helpers.narrow('torchvision', width=1 / 16, num_classes=1000)
  params = helpers.visible_params(model)
  interop.pytorch.write(str(tmp_path / 'net.safetensors'), interop.to_torchvision(params))
  made = run(
    capsys,
    '--mode=import',
    '--format=torchvision',
    f'--weights={tmp_path / "net.safetensors"}',
    f'--workdir={tmp_path / "run"}',
    NARROW,
  )
  assert made['recipe'] == 'torchvision' and made['classes'] == 1000
  assert made['parameters'] == sum(x.size for x in jax.tree.leaves(params))
  np.testing.assert_allclose(made['mean'], [255 * x for x in (0.485, 0.456, 0.406)], rtol=1e-5)
  assert_same(params_of(tmp_path / 'run'), params)
  names = trained(tmp_path / 'run').meta['class_names']
  assert names[0] == 'n01440764' and names == sorted(names)  # WordNet order
  out = tmp_path / 'back.safetensors'
  run(
    capsys,
    '--mode=export',
    '--format=torchvision',
    f'--workdir={tmp_path / "run"}',
    f'--output={out}',
  )
  assert out.read_bytes() == (tmp_path / 'net.safetensors').read_bytes()


@pytest.mark.parametrize('pooled_first', [False, True])
def test_a_caffe_import_selects_its_recipe_and_reads_a_mean_image(tmp_path, capsys, pooled_first):
  variant = 'caffe+caffenet' if pooled_first else 'caffe'
  model = helpers.narrow(variant, width=1 / 16, num_classes=12)
  planar = peers.planar_weights(layout.planar_shapes(model))
  (tmp_path / 'net').write_bytes(caffemodel.caffemodel(peers.in_order(planar, pooled_first), 'V1'))
  mean = np.random.default_rng(0).uniform(90, 130, (1, 3, 256, 256)).astype(np.float32)
  (tmp_path / 'mean.binaryproto').write_bytes(caffemodel.blob(mean, old=True))
  workdir = tmp_path / 'run'
  flags = (
    '--mode=import',
    '--format=caffe',
    f'--weights={tmp_path / "net"}',
    f'--workdir={workdir}',
    f'--mean={tmp_path / "mean.binaryproto"}',
    NARROW,
  )
  made = run(capsys, *flags)
  assert made['channels'] == 'bgr'
  assert made['recipe'] == variant
  config = config_lib.load_workdir(workdir)
  config.mesh, config.eval.views = (1, 1), 1
  network = loading.load(workdir, 'best', config)
  assert network.config.model.conv1.then == model.conv1.then
  np.testing.assert_array_equal(network.model.mean_image, mean[0, ::-1].transpose(1, 2, 0))
  # Our network gets RGB canvases, and the network in Caffe gets BGR images minus the mean.
  canvases = np.clip(photographs(2, 256) + 110, 0, 255).astype(np.uint8)
  found = network.model.predict(
    network.model.params, network.model.batch_stats, canvases, network.model.mean_image
  )
  centre = (canvases.transpose(0, 3, 1, 2)[:, ::-1] - mean)[:, :, 14:241, 14:241]
  expected = jax.nn.softmax(
    peers.tensorflow_logits(planar, np.ascontiguousarray(centre), peers.ORDERS[variant])
  )
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


def test_a_caffemodel_for_rgb_images(tmp_path, capsys):
  """If the order of channels is not clear, the import is refused until --channels is given."""
  planar = peers.planar_weights(layout.planar_shapes(helpers.narrow('caffe', width=1 / 16)))
  (tmp_path / 'net').write_bytes(caffemodel.caffemodel(peers.in_order(planar)))
  # These are not exactly the numbers that the import takes without --mean.
  mean = np.full((1, 3, 256, 256), 1, np.float32) * np.reshape((124, 116, 105), (3, 1, 1))
  (tmp_path / 'mean.binaryproto').write_bytes(caffemodel.blob(mean))
  files = f'--weights={tmp_path / "net"}', f'--mean={tmp_path / "mean.binaryproto"}'
  flags = '--mode=import', '--format=caffe', f'--workdir={tmp_path / "run"}', NARROW, *files
  assert 'add --channels=rgb if its network takes RGB' in fail(capsys, *flags)
  made = run(capsys, *flags, '--channels=rgb')
  assert made['mean'] == [124, 116, 105] and made['channels'] == 'rgb'
  assert_same(layout.to_planar(params_of(tmp_path / 'run'), list(planar)), planar)


def test_pytorch_weights_of_two_towers_are_imported_and_exported(tmp_path, capsys):
  """The weights are for RGB images, while the mean image from Caffe is BGR."""
  model = helpers.narrow('caffe', width=1 / 16)
  params = helpers.visible_params(model)
  interop.pytorch.write(str(tmp_path / 'net.safetensors'), interop.to_pytorch(params, model))
  mean = np.full((1, 3, 256, 256), 1, np.float32) * np.reshape((90, 110, 130), (3, 1, 1))
  (tmp_path / 'mean.binaryproto').write_bytes(caffemodel.blob(mean))
  made = run(
    capsys,
    '--mode=import',
    '--format=pytorch',
    f'--config={ROOT / "configs/alexnet.py"}:caffe',
    f'--weights={tmp_path / "net.safetensors"}',
    f'--mean={tmp_path / "mean.binaryproto"}',
    f'--workdir={tmp_path / "run"}',
    NARROW,
  )
  assert made['mean'] == [130, 110, 90] and made['channels'] == 'rgb' and made['classes'] == 10
  assert_same(params_of(tmp_path / 'run'), params)
  back = f'--output={tmp_path / "back.safetensors"}'
  run(capsys, '--mode=export', '--format=pytorch', f'--workdir={tmp_path / "run"}', back)
  assert (tmp_path / 'back.safetensors').read_bytes() == (tmp_path / 'net.safetensors').read_bytes()


def test_cuda_convnet_weights_are_imported_and_exported(tmp_path, capsys):
  model = helpers.narrow('original', width=1 / 16, num_classes=5)
  matrices = interop.to_cuda_convnet(helpers.visible_params(model))
  np.savez(tmp_path / 'net.npz', **matrices)
  (tmp_path / 'names').write_text('a\nb\nc\nd\ne\n')
  workdir, weights = tmp_path / 'run', f'--weights={tmp_path / "net.npz"}'
  flags = (
    '--mode=import',
    '--format=cuda_convnet',
    weights,
    f'--classes={tmp_path / "names"}',
    NARROW,
  )
  made = run(capsys, *flags, f'--workdir={workdir}', '--mean=100,110,120')
  assert made['mean'] == [100, 110, 120] and made['recipe'] == 'original'
  usual = run(capsys, *flags, f'--workdir={tmp_path / "usual"}')
  assert usual['mean'] == [127.305, 119.715, 104.913]  # that of the authors' code (docs/weights.md)
  assert trained(workdir).meta['class_names'] == list('abcde')
  assert trained(workdir).config.data.label_order == 'devkit'
  out = tmp_path / 'back.safetensors'
  run(capsys, '--mode=export', '--format=cuda_convnet', f'--workdir={workdir}', f'--output={out}')
  back = load_file(out)
  assert back.keys() == matrices.keys()
  assert all(np.array_equal(back[name], matrices[name]) for name in matrices)


def test_networks_for_other_images_than_imagenet_need_a_mean(tmp_path, capsys):
  config = config_lib.load_file(str(ROOT / 'configs/lenet.py'))
  state_dict = interop.to_pytorch(helpers.visible_params(config.model), config.model)
  interop.pytorch.write(str(tmp_path / 'net.safetensors'), state_dict)
  flags = (
    '--mode=import',
    '--format=pytorch',
    f'--config={ROOT / "configs/lenet.py"}',
    f'--weights={tmp_path / "net.safetensors"}',
    f'--workdir={tmp_path / "run"}',
  )
  message = fail(capsys, *flags)
  assert 'not known for recipe lenet:mnist: give it with --mean=R,G,B' in message
  assert run(capsys, *flags, '--mean=33,33,33')['mean'] == [33, 33, 33]


def test_invalid_arguments_are_refused(runs, tmp_path, capsys):
  narrow = interop.to_torchvision(
    helpers.visible_params(helpers.narrow('torchvision', width=1 / 16))
  )
  weights = tmp_path / 'net.safetensors'
  archive.write_tensors(str(weights), narrow, {'format': 'pt'})
  base = ('--mode=import', f'--workdir={tmp_path / "new"}')
  of_torch = (*base, '--format=torchvision', f'--weights={weights}')
  assert 'needs --format' in fail(capsys, *base)
  assert 'needs --weights' in fail(capsys, *base, '--format=caffe')
  assert '--format=keras: choose one of' in fail(capsys, *base, '--format=keras', '--weights=x')
  assert 'found [4, 3, 11, 11]' in fail(capsys, *of_torch)
  assert 'expected [7, 256], found [10, 256]' in fail(
    capsys, *of_torch, NARROW, '--config.model.num_classes=7'
  )
  config = f'--config={ROOT / "configs/alexnet.py"}:owt'
  assert 'another network than the config (config.model.conv1.padding' in fail(
    capsys, *of_torch, NARROW, config
  )
  assert 'is not an archive of this project' in fail(
    capsys, *base, '--format=safetensors', f'--weights={weights}'
  )
  assert 'is truncated' in fail(capsys, *base, '--format=caffe', f'--weights={weights}')
  for order in ('104,117,123', '103.53,116.28,123.675'):
    assert "ImageNet's B, G, R: give R,G,B" in fail(capsys, *of_torch, NARROW, f'--mean={order}')
  np.save(tmp_path / 'bgr.npy', np.full((3, 256, 256), 110, np.float32))
  assert 'has shape [3, 256, 256]: give three numbers or [256, 256, 3], RGB' in fail(
    capsys, *of_torch, NARROW, f'--mean={tmp_path / "bgr.npy"}'
  )
  assert '--channels=gbr: choose rgb or bgr' in fail(capsys, *of_torch, NARROW, '--channels=gbr')
  pytorch = (*base, '--format=pytorch', f'--weights={weights}')
  assert 'name its recipe, as in --config=alexnet:caffe' in fail(capsys, *pytorch)
  assert '--mean=1,2 has shape [2]' in fail(capsys, *of_torch, NARROW, '--mean=1,2')
  assert '--mean=red' in fail(capsys, *of_torch, NARROW, '--mean=red')
  (tmp_path / 'names').write_text('a\nb\nb\n')
  assert '3 names, the weights 10 classes' in fail(
    capsys, *of_torch, NARROW, f'--classes={tmp_path / "names"}'
  )
  (tmp_path / 'names').write_text('\n'.join('abcdefghij'.replace('j', 'a')))
  assert 'names a more than once: make' in fail(
    capsys, *of_torch, NARROW, f'--classes={tmp_path / "names"}'
  )
  assert 'is on a scale of 0 to 1' in fail(capsys, *of_torch, NARROW, '--mean=0.485,0.456,0.406')
  assert 'are not finite' in fail(capsys, *of_torch, NARROW, '--mean=nan,1,2')
  damaged = narrow | {'features.0.bias': narrow['features.0.bias'] * np.nan}
  archive.write_tensors(str(weights), damaged, {})
  assert 'not finite: download them again' in fail(capsys, *of_torch, NARROW)
  assert not (tmp_path / 'new' / 'config.json').exists()
  archive.write_tensors(str(weights), narrow, {})
  run(capsys, *of_torch, NARROW)  # the same command works with better weights
  assert 'holds a run already' in fail(capsys, *of_torch, NARROW)
  taken = f'--workdir={runs / "original"}'
  assert 'holds a run already' in fail(capsys, *of_torch, taken)
