"""`--mode=features` writes the activations of the network."""

import json

from inference_helpers import SIZES, reference_probabilities
import jax
from ml_collections import FrozenConfigDict
import numpy as np
import pytest
from tiny import tiny_config

from alexnet_jax import config as config_lib
from alexnet_jax.cli import main as main_lib
from alexnet_jax.evaluation import loading
from alexnet_jax.inference import features as features_lib


@pytest.mark.long
def test_features_of_files(workdir, pictures, tmp_path):
  config = config_lib.load_workdir(workdir)
  config.eval.batch_size = 2
  out = {}
  for layer in ('fc7', 'fc8', 'conv3', 'pool1', 'dropout7'):
    path = tmp_path / f'{layer}.npz'
    result = features_lib.features(config, workdir, layer, str(path), [str(pictures)])
    with np.load(path, allow_pickle=False) as file:
      out[layer] = file['features']
      assert list(file['paths']) == [str(pictures / name) for name in SIZES]
      assert len(file['class_names']) == 7
    assert result['shape'] == list(out[layer].shape) and len(result['skipped']) == 2
    assert out[layer].dtype == np.float32
  # The network of tiny_config has 6 + 6 maps in conv1 and takes crops of 64 pixels.
  assert out['conv3'].shape == (3, 3, 3, 24) and out['pool1'].shape == (3, 7, 7, 6)
  assert out['fc7'].shape == (3, 256) and out['fc7'].min() >= 0
  # Dropout multiplies by 0.5 at test time.
  np.testing.assert_allclose(out['dropout7'], 0.5 * out['fc7'])
  _, expected = reference_probabilities(workdir, [pictures / name for name in SIZES], 1)
  np.testing.assert_allclose(jax.nn.softmax(out['fc8']), expected, rtol=1e-4, atol=1e-7)
  config.mesh = (1, 1)
  params = jax.device_get(loading.load(workdir, 'best', config).model.params['fc8'])
  logits = 0.5 * out['fc7'] @ params['kernel'].reshape(-1, 7) + params['bias']
  np.testing.assert_allclose(logits, out['fc8'], rtol=1e-4, atol=1e-6)


def test_features_of_a_split(workdir, tmp_path, capsys):
  """By default, these are the activations of fc7 for all validation images, with their labels."""
  path = tmp_path / 'out' / 'x.npz'
  args = ['--mode=features', f'--workdir={workdir}', f'--output={path}']
  assert main_lib.main(args) == 0
  assert json.loads(capsys.readouterr().out)['shape'] == [18, 256]
  with np.load(path, allow_pickle=False) as file:
    assert sorted(file['index']) == list(range(18)) and len(file['labels']) == 18
    assert file['features'].shape == (18, 256) and len(np.unique(file['labels'])) > 1
  assert main_lib.main([*args, '--split=train', '--layer=pool5']) == 0
  assert json.loads(capsys.readouterr().out)['shape'][0] == 40


def test_paths_are_absolute(pictures, monkeypatch):
  """A server in another folder finds the images; their folder may be named after a class."""
  monkeypatch.chdir(pictures / 'deep')
  trained = loading.Trained(None, FrozenConfigDict(tiny_config()), {}, 0, None, None)
  names = ['c.jpeg', '../a.jpg']
  _, columns, _ = features_lib._of_files(lambda canvases: canvases[:, :1, 0, 0], names, trained)
  assert list(columns['paths']) == [str(pictures / name) for name in ('deep/c.jpeg', 'a.jpg')]


def test_labels_belong_to_the_class_names_of_their_images(workdir, tmp_path):
  """The images may have other classes than the network."""
  config, path = config_lib.load_workdir(workdir), tmp_path / 'x.npz'
  config.data.synthetic.classes = 3
  features_lib.features(config, workdir, 'fc8', str(path))
  with np.load(path) as file:
    assert len(file['class_names']) == 3 and file['features'].shape[1] == 7


def test_the_old_file_is_kept_if_writing_fails(workdir, tmp_path, monkeypatch):
  """The ending of the name may be in capitals."""
  config, path = config_lib.load_workdir(workdir), tmp_path / 'X.NPZ'
  result = features_lib.features(config, workdir, 'fc8', str(path))
  assert result['output'] == str(path) and [p.name for p in tmp_path.iterdir()] == ['X.NPZ']
  before = path.read_bytes()

  def full(file, **arrays):
    file.write(b'half')
    raise OSError('no space left on device')

  monkeypatch.setattr(np, 'savez', full)
  with pytest.raises(OSError, match='no space'):
    features_lib.features(config, workdir, 'fc8', str(path))
  assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
