"""PyTorch computes the same logits and reads the same bits. These tests need PyTorch."""

import os

import caffemodel
from conversion_helpers import assert_same, photographs
import helpers
import jax
from ml_collections import FrozenConfigDict
import numpy as np
import peers
import pytest
from tiny import ROOT

from alexnet_jax import config as config_lib
from alexnet_jax import interop
from alexnet_jax.cli import main as main_lib
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import loading
from alexnet_jax.interop import layout, pytorch

torch = pytest.importorskip('torch', reason='PyTorch is an extra: pip install torch')
pytestmark = pytest.mark.long  # PyTorch is installed for the long tests alone

COUNT = 100 if os.environ.get('ALEXNET_JAX_DATA') else 8
WIDTH = float(os.environ.get('ALEXNET_JAX_WIDTH', '0.125'))


def agree(ours, theirs):
  """Checks that logits agree within 1e-4 and have the same top five classes, and prints the difference."""
  errors = [helpers.relative_error(a, b) for a, b in zip(np.asarray(ours), theirs, strict=True)]
  print(f'{len(errors)} images: logits differ by at most {max(errors):.1e} of the largest')
  assert max(errors) < 1e-4
  np.testing.assert_array_equal(
    np.argsort(np.asarray(ours))[:, ::-1][:, :5], np.argsort(theirs)[:, ::-1][:, :5]
  )


@pytest.fixture(scope='module')
def peer():
  """The network of torchvision, with weights that give logits of a few units."""
  torch.manual_seed(0)
  network = peers.torch_alexnet(WIDTH, classes=50)
  with torch.no_grad():
    for parameter in network.parameters():
      parameter.mul_(2.0)
  return network


def command(*args: str) -> None:
  assert (
    main_lib.main([*args, f'--config.model.width={WIDTH}'] if '--mode=import' in args else args)
    == 0
  )


def imported(workdir) -> tuple[FrozenConfigDict, dict]:
  """Returns `config.model` and the parameters of the checkpoint that an import made."""
  config = config_lib.load_workdir(workdir)
  config.mesh = (1, 1)
  trained = loading.load(workdir, 'best', config)
  return trained.config.model, jax.device_get(trained.model.params)


def test_torchvision_weights_are_imported_and_exported_by_commands(peer, tmp_path):
  weights, workdir, back = (str(tmp_path / name) for name in ('net.pth', 'run', 'back.pth'))
  torch.save(peer.state_dict(), weights)
  command('--mode=import', '--format=torchvision', f'--weights={weights}', f'--workdir={workdir}')
  model, params = imported(workdir)
  images = photographs(COUNT, 224) / 58
  theirs = logits(peer, images)
  assert np.abs(theirs).max() > 0.1
  agree(peers.ours(model)(params, images), theirs)
  command('--mode=export', '--format=torchvision', f'--workdir={workdir}', f'--output={back}')
  back = torch.load(back, weights_only=True)
  assert list(back) == list(peer.state_dict())
  assert all(torch.equal(back[name], tensor) for name, tensor in peer.state_dict().items())
  peer.load_state_dict(back)


def test_the_checkpoint_of_a_training_script_is_imported(peer, tmp_path):
  model = helpers.narrow('torchvision', width=WIDTH, num_classes=50)
  wrapped = {'module.' + name: tensor for name, tensor in peer.state_dict().items()}
  torch.save({'epoch': 3, 'state_dict': wrapped}, tmp_path / 'checkpoint.pth.tar')
  read = pytorch.read(str(tmp_path / 'checkpoint.pth.tar'))
  assert_same(
    interop.from_torchvision(read, model), interop.from_torchvision(peer.state_dict(), model)
  )


def two_towers(recipe):
  """Returns planar weights of a two-tower network, and a PyTorch module with them."""
  shapes = layout.planar_shapes(helpers.narrow(recipe, width=WIDTH, num_classes=50))
  planar = peers.planar_weights(shapes)
  return planar, peers.torch_two_towers(planar, recipe)


def logits(network, images, channels='rgb'):
  """Returns the logits of a PyTorch module, whose order of channels is `channels`, for RGB images."""
  x = images if channels == 'rgb' else images[..., ::-1]
  with torch.no_grad():
    theirs = network(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
  assert np.ptp(theirs.argmax(1)) > 0
  return theirs


def test_a_caffemodel_is_imported_by_the_command(tmp_path):
  """The AlexNet of Caffe has grouped convolutions, normalisation over all maps, and BGR images."""
  weights, workdir = str(tmp_path / 'net.caffemodel'), str(tmp_path / 'run')
  planar, network = two_towers('caffe')
  with open(weights, 'wb') as file:
    file.write(caffemodel.caffemodel(peers.in_order(planar), 'V1'))
  command('--mode=import', '--format=caffe', f'--weights={weights}', f'--workdir={workdir}')
  model, params = imported(workdir)
  images = photographs(COUNT, 227)
  agree(peers.ours(model)(params, images), logits(network, images, 'bgr'))
  back = layout.to_planar(params, model.layers)
  back['conv1']['weight'] = back['conv1']['weight'][:, ::-1]
  assert_same(back, planar)


@pytest.mark.parametrize(('recipe', 'channels'), [('caffe', 'bgr'), ('paper', 'rgb')])
def test_two_towers_with_lrn_are_imported_and_exported_by_commands(tmp_path, recipe, channels):
  """The modules have grouped convolutions and local response normalisation (LRN)."""
  weights, workdir, back = (str(tmp_path / name) for name in ('net.pth', 'run', 'back.pth'))
  _, network = two_towers(recipe)
  torch.save(network.state_dict(), weights)
  config = f'--config={ROOT / "configs/alexnet.py"}:{recipe}'
  source = f'--weights={weights}', f'--channels={channels}', config
  command('--mode=import', '--format=pytorch', f'--workdir={workdir}', *source)
  model, params = imported(workdir)
  images = photographs(COUNT, model.input_size)
  agree(peers.ours(model)(params, images), logits(network, images, channels))
  command('--mode=export', '--format=pytorch', f'--workdir={workdir}', f'--output={back}')
  back = torch.load(back, weights_only=True)
  assert list(back)[:2] == ['conv1.weight', 'conv1.bias']
  if channels == 'bgr':  # the exported network is for RGB images
    back['conv1.weight'] = back['conv1.weight'].flip(1)
  named = zip(network.state_dict().values(), back.values(), strict=True)
  assert all(torch.equal(a, b) for a, b in named)


class CodeInPickle:
  """Creates a folder when it is unpickled."""

  def __reduce__(self):
    return os.mkdir, ('evil',)


def test_pickled_code_is_refused(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  torch.save({'features.0.weight': CodeInPickle()}, 'evil.pth')
  with pytest.raises(UserError, match=r'holds other objects than tensors \(posix.mkdir\)'):
    pytorch.read('evil.pth')
  torch.save(torch.nn.Linear(2, 3), 'whole.pth')
  with pytest.raises(
    UserError, match=r'torch.nn.modules.linear.Linear.*save only the state'
  ) as error:
    pytorch.read('whole.pth')
  assert 'weights_only' not in str(error.value) and '\x1b' not in str(error.value)
  torch.save([1, 2], 'list.pth')
  with pytest.raises(UserError, match='holds a list'):
    pytorch.read('list.pth')
  torch.save(peers.torch_alexnet(1 / 64).state_dict(), 'cut.pth')
  data = (tmp_path / 'cut.pth').read_bytes()
  for damaged in (data[: len(data) // 2], b'', b'<html>', b'\x80\x02abc'):
    (tmp_path / 'cut.pth').write_bytes(damaged)
    with pytest.raises(UserError, match='is not a PyTorch file, or is damaged: download it again'):
      pytorch.read('cut.pth')
  flipped = bytearray(data)
  flipped[len(data) // 2] ^= 1  # in the weights
  (tmp_path / 'cut.pth').write_bytes(flipped)
  with pytest.raises(UserError, match=r'cut.pth is damaged: download it again'):
    pytorch.read('cut.pth')
  assert not (tmp_path / 'evil').exists()
