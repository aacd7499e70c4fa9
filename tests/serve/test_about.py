"""The description of a network says what it was trained on and how often it errs."""

import json
import shutil

from ml_collections import FrozenConfigDict
import pytest

from alexnet_jax import config as config_lib
from alexnet_jax.evaluation import loading
from alexnet_jax.interop.exporter import export_network
from alexnet_jax.serve import about
from alexnet_jax.utils import atomic_io
from alexnet_jax.workdir import archive
from alexnet_jax.workdir.checkpoint import Checkpoints

MEASURED = {
  'source': 'folder:/private/photos/',
  'top1_error': 12.5,
  'examples': 80,
  'views': 10,
  'checkpoint': 0,
}


def with_weights(config, weights, **evaluation):
  """Returns a config with other values of `config.eval`."""
  other = config.to_dict()
  other['eval'] |= {'weights': weights, **evaluation}
  return FrozenConfigDict(other)


@pytest.fixture(scope='module')
def trained(run):
  return loading.load_alone(str(run / 'run'), 'best', config_lib.load_workdir(run / 'run'))


def test_a_network_is_described(run, trained):
  labels = loading.class_labels(trained)
  found = about.describe(trained, str(run / 'run'), labels)
  assert found['classes'] == labels == [f'class{i}' for i in range(7)]
  assert found['recipe'] == 'original' and found['architecture'] == 'alexnet'
  assert found['towers'] == 2 and found['width'] == 1 / 16 and found['input_size'] == 64
  assert found['layers'][0] == 'conv1' and found['layers'][-1] == 'fc8'
  leaves = [leaf for layer in trained.model.params.values() for leaf in layer.values()]
  assert found['parameters'] == sum(leaf.size for leaf in leaves)
  assert found['data'] == 'synthetic' and found['training_images'] is None
  assert found['validation'] is None
  known = trained._replace(meta=trained.meta | {'num_train': 40})
  assert about.describe(known, str(run / 'run'), labels)['training_images'] == 40


def test_the_error_comes_from_the_evaluation_of_the_same_checkpoint(tmp_path, trained):
  file = tmp_path / 'evaluation.json'
  expected = {'top1_error': 12.5, 'images': 80, 'views': 10, 'data': 'photos'}
  file.write_text(json.dumps(MEASURED))
  assert about.validation(trained, str(tmp_path)) == expected
  others = ({'checkpoint': 9}, {'eval_weights': 'ema'})
  own = loading.fingerprint(trained)
  file.write_text(json.dumps(MEASURED | {'network': own}))
  assert about.validation(trained, str(tmp_path)) == expected
  others += ({'network': own + 1},)  # of another seed, for example
  for text in (*(json.dumps(MEASURED | other) for other in others), 'damaged', '[]'):
    file.write_text(text)
    assert about.validation(trained, str(tmp_path)) is None


def test_the_error_of_a_file_lies_beside_it(run, tmp_path):
  path = tmp_path / 'network.safetensors'
  config = config_lib.load_workdir(run / 'run')
  export_network(config, str(run / 'run'), form='safetensors', output=str(path))
  (tmp_path / 'network.evaluation.json').write_text(json.dumps(MEASURED))
  trained = loading.load_alone(str(path), 'best', config)
  assert about.validation(trained, str(path))['images'] == 80


@pytest.mark.parametrize('weights', ['last', 'ema'])
def test_an_exported_file_keeps_the_error_of_its_own_weights_alone(
  run, tmp_path, weights, monkeypatch
):
  """Training measured the last weights, with one view."""
  measured = {'val/top1_error': 30.0, 'val/loss': 1.0, 'val/examples': 18.0}
  config = config_lib.load_workdir(run / 'run')
  load_alone = loading.load_alone

  def load_as(*args):
    found = load_alone(*args)
    return found._replace(
      meta=found.meta | {'validation': measured},
      config=with_weights(found.config, weights, train_views=10),
    )

  path = tmp_path / 'network.safetensors'
  monkeypatch.setattr(loading, 'load_alone', load_as)
  export_network(config, str(run / 'run'), form='safetensors', output=str(path))
  monkeypatch.undo()
  found = about.validation(load_alone(str(path), 'best', archive.read_config(path)), str(path))
  assert (found and (found['top1_error'], found['views'])) == (
    None if weights == 'ema' else (30.0, 1)
  )


def test_the_error_of_an_earlier_step_is_not_that_of_the_checkpoint(run, tmp_path):
  """The metadata hold the last errors that were measured, `metrics` those of the checkpoint itself."""
  shutil.copytree(run / 'run', tmp_path / 'run')
  measured = {'val/top1_error': 30.0, 'val/examples': 18.0}
  config = config_lib.load_workdir(tmp_path / 'run')
  for metrics in ({}, measured):
    with Checkpoints(tmp_path / 'run') as checkpoints:
      stored = atomic_io.facts(checkpoints.folder / '0')['meta']
      checkpoints.amend(0, stored | {'validation': measured}, metrics)
    found = loading.load_alone(str(tmp_path / 'run'), 'latest', config)
    assert found.meta['validation'] == metrics


def test_the_error_that_training_measured_is_the_second_choice(tmp_path, trained):
  measured = {'val/top1_error': 30.0, 'val/loss': 1.0, 'val/examples': 18.0}
  trained = trained._replace(meta=trained.meta | {'validation': measured})
  expected = {'top1_error': 30.0, 'images': 18, 'views': 1, 'data': 'synthetic'}
  assert about.validation(trained, str(tmp_path)) == expected
  average = trained._replace(config=with_weights(trained.config, 'ema'))
  assert about.validation(average, str(tmp_path)) is None
