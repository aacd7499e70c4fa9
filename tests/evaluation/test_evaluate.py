"""Evaluation is exact for every image, averages views and networks, and counts ties as errors."""

import contextlib
import json

from helpers import untrained_run
from inference_helpers import probabilities
import jax
import numpy as np
from PIL import Image
import pytest
from tiny import tiny_config

from alexnet_jax import config as config_lib
from alexnet_jax import steps
from alexnet_jax.config import recipes
from alexnet_jax.data import open_dataset
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import evaluate, loading, per_class
from alexnet_jax.interop.exporter import export_network
from alexnet_jax.serve import about
from alexnet_jax.training.loop import train

SMALL = ('conv1', 'fc6', 'fc8')


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Two short runs on the same data with different seeds."""
  folders = [tmp_path_factory.mktemp(f'run{seed}') for seed in (0, 1)]
  for seed, folder in enumerate(folders):
    config = tiny_config(train__epochs=3.0, optim__rate=0.003, model__layers=SMALL)
    config.seed = seed
    train(config, folder)
  return folders


@pytest.fixture(scope='module')
def averaged_run(tmp_path_factory):
  """A short run whose moving average is evaluated, with another `config.data.holdout`."""
  folder = tmp_path_factory.mktemp('averaged')
  averaged = {'optim__ema': 0.9, 'eval__weights': 'ema', 'data__holdout': 0.2}
  train(tiny_config(train__steps=20, optim__rate=0.01, model__layers=SMALL, **averaged), folder)
  return folder


def reference_probabilities(workdirs, weights, views):
  """Returns mean probabilities `[N, classes]` and labels of the validation images."""
  first = config_lib.load_workdir(workdirs[0])
  with contextlib.closing(open_dataset(first.data, 0)) as dataset:
    batches = list(dataset.eval_batches(5))
  images, labels = (
    np.concatenate([batch[key][batch['mask']] for batch in batches]) for key in ('image', 'label')
  )
  trained = [loading.load(path, 'best', config_lib.load_workdir(path)) for path in workdirs]
  each = [probabilities(one, images, views) for one in trained]
  return np.tensordot(weights, each, 1), labels


@pytest.mark.parametrize('views', [1, 10])
@pytest.mark.parametrize('weights', [(1.0,), (3.0, 1.0)])
def test_eval_equals_one_image_at_a_time(runs, views, weights):
  workdirs = runs[: len(weights)]
  config = config_lib.load_workdir(runs[0])
  config.eval.views, config.eval.batch_size = views, 7
  result = evaluate.evaluate(config, workdirs, 'best', weights)
  shares = np.asarray(weights) / sum(weights)
  probabilities, labels = reference_probabilities(workdirs, shares, views)
  wrong = 100 * np.mean(probabilities.argmax(1) != labels)
  assert result['examples'] == len(labels) == 18
  assert result['top1_error'] == pytest.approx(wrong)
  loss = -np.log(probabilities[np.arange(18), labels]).mean()
  assert result['loss'] == pytest.approx(loss, rel=1e-4)
  assert result['views'] == views and result['top5_error'] is None
  assert result['majority_error'] == pytest.approx(100 * (1 - np.mean(labels == 0)))


@pytest.mark.long
def test_each_network_of_an_ensemble_has_its_own_kind_of_weights(runs, averaged_run, tmp_path):
  """Before 2026-11-29, all had the kind of the first."""
  path, config = tmp_path / 'net.safetensors', config_lib.load_workdir(averaged_run)
  export_network(config, str(averaged_run), 'safetensors', str(path))
  probabilities, labels = reference_probabilities([runs[0], averaged_run], (0.5, 0.5), 1)
  loss = -np.log(probabilities[np.arange(18), labels]).mean()
  for workdirs in ([runs[0], averaged_run], [averaged_run, runs[0]], [runs[0], path]):
    found = evaluate.evaluate(config_lib.load_workdir(workdirs[0]), workdirs)
    assert found['loss'] == pytest.approx(loss, rel=1e-4)
  config.eval.weights, output = 'last', tmp_path / 'x.json'  # an override is for all
  last = evaluate.evaluate(config, [averaged_run, runs[0]], output=str(output))
  assert last['loss'] != pytest.approx(loss, rel=1e-4)
  assert json.loads(output.read_text())['eval_weights'] == ['last', 'last']
  config = config_lib.load_workdir(runs[0])
  config.eval.weights = 'ema'
  with pytest.raises(UserError, match='keeps no average'):
    evaluate.evaluate(config, [runs[0], averaged_run])


@pytest.mark.long
def test_another_split_than_in_training_gives_a_warning(runs, averaged_run, caplog):
  config = config_lib.load_workdir(runs[0])
  evaluate.evaluate(config, runs)
  assert 'was trained with' not in caplog.text
  config.data.holdout = 0.2
  evaluate.evaluate(config, [runs[0], averaged_run])
  assert f'holdout=0.2, but {runs[0]} was trained with 0.1: if synthetic' in caplog.text
  assert f'{averaged_run} was trained' not in caplog.text
  config.data.split_seed = 5
  evaluate.evaluate(config, runs[:1])
  assert f'split_seed=5, but {runs[0]} was trained with 0: if synthetic' in caplog.text


@pytest.mark.long
def test_networks_that_read_files_differently_are_averaged(tmp_path, caplog):
  """`paper` turns photographs upright and `original` does not. The file names networks and weights."""
  workdirs, output = [tmp_path / name for name in ('paper', 'original')], tmp_path / 'x.json'
  for workdir in workdirs:
    untrained_run(tiny_config(workdir.name), workdir)
  config = config_lib.load_workdir(workdirs[0])
  result = evaluate.evaluate(config, workdirs, weights=[2, 1], output=str(output))
  assert result['checkpoint'] == [0, 0] and 'networks' not in result
  message = 'config.data.canvas.exif_orientation is True here, and %s was trained with False'
  assert message % workdirs[1] in caplog.text and caplog.text.count('exif_orientation') == 1
  written = json.loads(output.read_text())
  assert written['networks'] == list(map(str, workdirs)) and written['weights'] == [2, 1]
  assert 'network' not in written


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'data.holdout': 0.0}, 'no validation images, and config.data.holdout=0: set a share$'),
    ({}, r'to hold some out: add (.*)/val to \1/train$'),
    ({'data.source': 'synthetic', 'data.synthetic.validation': 0}, r'set config\.data\.synthetic'),
    ({'data.drop_bad_validation': True}, r'left out all 2 \(.*class1.*\): repair them$'),
  ],
)
def test_missing_validation_images_are_explained(changes, message, tmp_path):
  images, run = tmp_path / 'images', tmp_path / 'run'
  for label in range(4):
    path = images / 'train' / f'class{label}' / '0.png'
    path.parent.mkdir(parents=True)
    Image.new('RGB', (80, 80), (60 * label, 9, 9)).save(path)
    if 'data.drop_bad_validation' in changes and label < 2:
      (images / 'val' / f'class{label}').mkdir(parents=True)
      (images / 'val' / f'class{label}' / '0.png').write_bytes(b'no image')
  config = tiny_config()
  untrained_run(config, run)
  config.data.source = f'folder:{images}'
  with pytest.raises(UserError, match=message):
    evaluate.evaluate(recipes.apply(config, changes), [run])


def test_the_result_of_a_single_run_is_written_to_its_workdir(runs, tmp_path):
  """That of an ensemble or of a file is written only if an output is named."""
  config, path = config_lib.load_workdir(runs[0]), runs[0] / per_class.FILE
  path.unlink(missing_ok=True)
  export_network(config, str(runs[0]), 'safetensors', str(tmp_path / 'net.safetensors'))
  folder = sorted(tmp_path.iterdir())
  evaluate.evaluate(config, runs)
  evaluate.evaluate(config, [tmp_path / 'net.safetensors'])
  assert not path.exists() and sorted(tmp_path.iterdir()) == folder
  config.eval.views = 10
  result = evaluate.evaluate(config, runs[:1])
  trained = loading.load(runs[0], 'best', config)
  shown = about.validation(trained, str(runs[0]))
  assert (shown['top1_error'], shown['views']) == (result['top1_error'], 10)
  mean = trained.model.mean_image + 1
  other = trained._replace(model=trained.model._replace(mean_image=mean))
  assert about.validation(other, str(runs[0]))['views'] == 1  # as training measured the error


def test_the_result_is_written_without_tables_of_many_classes(runs, tmp_path, monkeypatch):
  monkeypatch.setattr(per_class, 'MAX_CLASSES', 3)
  output = tmp_path / 'x.json'
  config = config_lib.load_workdir(runs[0])
  result = evaluate.evaluate(config, runs[:1], output=str(output))
  written = json.loads(output.read_text())
  own = loading.fingerprint(loading.load(runs[0], 'best', config))
  assert written == result | {'source': 'synthetic', 'eval_weights': 'last', 'network': own}
  assert 'macro_f1' not in written and 'classes' not in written


@pytest.mark.long
def test_errors_are_those_of_the_searched_weights(runs):
  """With few classes the search minimises the top-1 error. The weights found give the same numbers."""
  config = config_lib.load_workdir(runs[0])
  found = evaluate.evaluate(config, runs, search=True)
  again = evaluate.evaluate(config, runs, weights=found.pop('weights'))
  assert found == again
  assert found['top1_error'] <= evaluate.evaluate(config, runs)['top1_error']
  with pytest.raises(UserError, match='two runs or more, in one process'):
    evaluate.evaluate(config, runs[:1], search=True)


@pytest.mark.long
@pytest.mark.parametrize('batch_size', [1, 4, 18, 50])
def test_padding_of_the_last_batch_has_no_effect(runs, batch_size):
  config = config_lib.load_workdir(runs[0])
  config.eval.batch_size = batch_size
  result = evaluate.evaluate(config, runs[:1])
  config.eval.batch_size = 6
  expected = evaluate.evaluate(config, runs[:1])
  assert result['examples'] == expected['examples'] == 18
  assert result['top1_error'] == expected['top1_error']
  assert result['loss'] == pytest.approx(expected['loss'], rel=1e-5)


@pytest.mark.long
def test_networks_with_one_and_two_towers_share_a_mesh(runs, tmp_path):
  """Their default meshes in training would differ."""
  train(tiny_config('owt', train__steps=2), tmp_path / 'one')
  config = config_lib.load_workdir(runs[0])
  config.mesh, config.eval.batch_size = (0, 0), 7
  assert evaluate.evaluate(config, [runs[0], tmp_path / 'one'])['examples'] == 18


def test_the_score_counts_ties_as_errors_and_ignores_padding():
  probabilities = np.array(
    [
      [0.4, 0.4, 0.1, 0.04, 0.03, 0.02, 0.01],  # a tie for the largest probability is an error
      [0.5, 0.2, 0.1, 0.1, 0.05, 0.05, 0.0],  # correct
      # Label 4 ties with four other classes and is in the top 5.
      [0.2, 0.2, 0.2, 0.2, 0.2, 0.0, 0.0],
      [0.3, 0.2, 0.2, 0.1, 0.1, 0.1, 0.0],  # label 6 has rank 7
      [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],  # padding
    ],
    np.float32,
  )
  labels = np.array([0, 0, 4, 6, 3])
  mask = np.array([True, True, True, True, False])
  sums = jax.device_get(steps.score(probabilities, labels, mask))
  assert (sums['top1'], sums['top5'], sums['examples']) == (3, 1, 4)
  smallest = np.finfo(np.float32).tiny  # a probability of 0 counts as this
  losses = -np.log([0.4, 0.5, 0.2, smallest])
  assert sums['loss'] == pytest.approx(losses.sum(), rel=1e-6) and losses.max() < 87.4
  sums = steps.score(probabilities[:2], labels[:2], mask[:2])
  assert float(sums['loss']) == pytest.approx(-np.log(0.4) - np.log(0.5), rel=1e-6)
  not_numbers = np.full((2, 7), np.nan, np.float32)
  sums = jax.device_get(steps.score(not_numbers, labels[:2], mask[:2]))
  assert (sums['top1'], sums['top5']) == (2, 2)


def test_invalid_input_is_refused(runs, tmp_path):
  config = config_lib.load_workdir(runs[0])
  with pytest.raises(UserError, match='checkpoint=7: choose best, latest or one of'):
    evaluate.evaluate(config, runs[:1], '7')
  with pytest.raises(UserError, match='holds no checkpoints'):
    evaluate.evaluate(config, [tmp_path])
  with pytest.raises(UserError, match='has 1 numbers for 2 runs'):
    evaluate.evaluate(config, runs, 'best', [1.0])
  for wrong in ([1.0, float('nan')], [0.0, 0.0], [-1.0, 2.0]):
    with pytest.raises(UserError, match='each must be 0 or more, and not all of them 0'):
      evaluate.evaluate(config, runs, 'best', wrong)
  wider = config_lib.load_workdir(runs[0])
  wider.model.width = 0.5
  with pytest.raises(UserError, match=r'model\.width=0\.5, but the checkpoint was trained with'):
    evaluate.evaluate(wider, runs[:1])
  other = tiny_config(train__steps=1, model__layers=SMALL, data__synthetic__classes=3)
  train(other, tmp_path / 'three')
  with pytest.raises(
    UserError, match=r'averaged: classes: 4 and 3, only the first has 1 \(class3\): leave one out$'
  ):
    evaluate.evaluate(config, [runs[0], tmp_path / 'three'])
  assert evaluate.classes_apart('ab', 'ba') == '2 and 2, the same in another order'
  other = config_lib.load_workdir(runs[0])
  other.data.synthetic.classes = 3
  with pytest.raises(UserError, match=r'only the second has 1 \(class3\)'):
    evaluate.evaluate(other, runs[:1])
