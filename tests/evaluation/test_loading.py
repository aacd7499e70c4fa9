"""Networks are loaded from runs and from .safetensors files; every mode that reads a network takes both."""

import json

import helpers
from helpers import run
from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np
import pytest
from safetensors import safe_open
from tiny import tiny_config

from alexnet_jax import config as config_lib
from alexnet_jax.cli import main as main_lib
from alexnet_jax.data.splits import hold_out
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import loading
from alexnet_jax.interop import exporter
from alexnet_jax.workdir import archive


@pytest.fixture(scope='module')
def network(tmp_path_factory):
  """A run, and the same network as a file."""
  folder = tmp_path_factory.mktemp('network')
  helpers.untrained_run(tiny_config(), folder / 'run')
  path = folder / 'net.safetensors'
  args = ['--mode=export', '--format=safetensors', f'--workdir={folder}/run', f'--output={path}']
  assert main_lib.main(args) == 0
  return folder / 'run', path


def test_eval_and_an_ensemble_take_files(network, capsys):
  workdir, path = network
  expected = run(capsys, '--mode=eval', f'--workdir={workdir}')
  assert run(capsys, '--mode=eval', f'--weights={path}') == expected
  both = run(capsys, '--mode=eval', f'--checkpoints={path},{workdir}', '--weights=1,3')
  assert both['top1_error'] == expected['top1_error'] and both['checkpoint'] == [0, 0]


def test_features_and_export_take_a_file(network, capsys, tmp_path):
  workdir, path = network
  for source, name in ((f'--workdir={workdir}', 'a'), (f'--weights={path}', 'b')):
    run(capsys, '--mode=features', source, f'--output={tmp_path / name}.npz')
  with np.load(tmp_path / 'a.npz') as a, np.load(tmp_path / 'b.npz') as b:
    np.testing.assert_array_equal(a['features'], b['features'])
  args = ('--mode=export', '--format=safetensors', f'--output={tmp_path / "again.safetensors"}')
  run(capsys, *args, f'--weights={path}')
  a, b = (archive.read_tensors(str(p)) for p in (path, tmp_path / 'again.safetensors'))
  assert a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_a_file_takes_little_more_than_its_parameters(network):
  """So a network of two million parameters, 8 MB, with a mean image of 0.8 MB fits into 10 MB."""
  tensors = archive.read_tensors(str(network[1]))
  assert network[1].stat().st_size < sum(x.nbytes for x in tensors.values()) + 32_000


def test_a_file_names_no_folder_of_the_machine(network, tmp_path):
  config = config_lib.load_workdir(network[0])
  trained = loading.load(network[0], 'best', config)
  config.data.source, config.init_from = 'folder:/home/me/photos/', '/home/me/runs/old'
  config.data.devkit, config.data.data_dir, config.mesh = '/data/devkit', 'relative/folder', (1, 2)
  changed = FrozenConfigDict(config)
  meta = trained.meta | {'config': changed}
  path = tmp_path / 'net.safetensors'
  exporter._write_archive(trained._replace(config=changed, meta=meta), str(path))
  with safe_open(path, framework='numpy') as file:
    metadata = json.dumps(file.metadata())
  assert '/home' not in metadata and '/data/' not in metadata
  written = archive.read_config(path)
  assert (written.data.source, written.init_from) == ('folder:photos', 'old')
  assert (written.data.devkit, written.data.data_dir) == ('devkit', 'relative/folder')
  assert written.mesh == (0, 0)  # the mesh of the machine


def test_files_of_earlier_versions_are_read(network, tmp_path):
  """They say nothing about the training."""
  with safe_open(network[1], framework='numpy') as file:
    metadata = file.metadata()
  del metadata['training'], metadata['class_titles']
  old = tmp_path / 'old.safetensors'
  archive.write_tensors(str(old), archive.read_tensors(str(network[1])), metadata)
  trained = loading.load(old, 'best', archive.read_config(old))
  assert trained.step == 0 and trained.meta['num_train'] == 0 and trained.meta['validation'] == {}
  assert loading.class_labels(trained) == trained.meta['class_names']


def test_what_a_file_does_not_hold_is_refused(network):
  _, path = network
  config = archive.read_config(path)
  with pytest.raises(UserError, match=r'--checkpoint=7: .* holds the checkpoint of step 0 alone'):
    loading.load(path, '7', config)
  config.eval.weights = 'ema'
  with pytest.raises(
    UserError, match=r"holds the weights 'last' alone: set --config\.eval\.weights=last"
  ):
    loading.load(path, 'best', config)


def test_classes_with_equal_titles_are_distinguished(network, tmp_path):
  path = tmp_path / 'cranes.safetensors'
  with safe_open(network[1], framework='numpy') as file:
    metadata = file.metadata()
  metadata['class_names'] = json.dumps(['n01440764', 'n02012849', 'n03126707', 'n01491361'])
  archive.write_tensors(str(path), archive.read_tensors(str(network[1])), metadata)
  labels = loading.class_labels(loading.load(path, 'best', archive.read_config(path)))
  assert labels[:3] == ['tench, Tinca tinca', 'crane (n02012849)', 'crane (n03126707)']


def test_a_devkit_that_does_not_exist_is_refused(network, capsys, tmp_path):
  """Before 2026-11-29, predict ignored config.data.devkit."""
  path = tmp_path / 'named.safetensors'
  with safe_open(network[1], framework='numpy') as file:
    metadata = file.metadata()
  names = ['n01440764', 'n01443537', 'n01484850', 'n01491361']
  metadata['class_names'] = json.dumps(names)
  archive.write_tensors(str(path), archive.read_tensors(str(network[1])), metadata)
  config = archive.read_config(path)
  assert loading.class_labels(loading.load(path, 'best', config))[0] == 'tench, Tinca tinca'
  for source, message in (
    (path, 'config.data.devkit=nowhere: there is no data/meta.mat'),
    (network[1], 'config.data.devkit=nowhere: the classes are not WordNet IDs but class0'),
  ):
    config = archive.read_config(source)
    config.data.devkit = 'nowhere'
    with pytest.raises(UserError, match=message):
      loading.class_labels(loading.load(source, 'best', config))


def test_the_fingerprint_covers_all_that_decides_the_activations(network):
  trained = loading.load(network[0], 'best', config_lib.load_workdir(network[0]))
  assert loading.fingerprint(trained) == loading.fingerprint(
    loading.load(network[1], 'best', archive.read_config(network[1]))
  )

  def changed(group, **values):
    config = ConfigDict(trained.config.to_dict())
    (config.augment if group == 'augment' else config.data.canvas).update(values)
    return trained._replace(config=FrozenConfigDict(config))

  brighter = trained.model._replace(mean_image=trained.model.mean_image + 1)
  others = [trained._replace(model=brighter), changed('canvas', filter='box')]
  others += [changed('augment', mean='channel'), changed('augment', std=(1.0, 2.0, 3.0))]
  found = {loading.fingerprint(one) for one in (trained, *others)}
  assert len(found) == 5
  same = changed('canvas', exif_orientation=True, max_pixels=10)
  assert loading.fingerprint(same) == loading.fingerprint(trained)


@pytest.mark.parametrize(('share', 'warned'), [(0.05, True), (0.1, False), (0.2, True)])
def test_another_share_held_out_than_in_training_gives_a_warning(network, caplog, share, warned):
  """A smaller share may hold out an image that a larger one does not: the rounding of classes differs."""
  held = [hold_out(np.repeat([0, 1], [5, 2]), share, 0) for share in (0.325, 0.35)]
  assert (held[0] & ~held[1]).any()
  config = config_lib.load_workdir(network[0])
  trained = loading.load(network[0], 'best', config)
  trained = trained._replace(meta=trained.meta | {'num_train': 21})
  config.data.holdout = share
  messages = loading.warn_of_another_split(config, trained, 'it')
  expected = f'config.data.holdout={share}, but it was trained with 0.1: if synthetic has no'
  assert [message.startswith(expected) for message in messages] == [True] * warned
  assert (expected in caplog.text) == warned


def test_a_batch_for_a_few_images_is_small():
  config = tiny_config(eval__batch_size=100)
  sizes = [loading.batch_size_on(config, 1, images) for images in (1, 2, 3, 60, 65, 1000)]
  assert sizes == [1, 2, 4, 64, 100, 100]
  assert loading.batch_size_on(config, 8) == 104 and loading.batch_size_on(config, 8, 1) == 8
