"""Evaluation is exact for every image, averages views and networks, and counts ties as errors."""

import contextlib

import jax
import numpy as np
import pytest
from tiny import tiny_config

from alexnet_jax import config as config_lib
from alexnet_jax import models, steps
from alexnet_jax.data import open_dataset
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import evaluate, loading
from alexnet_jax.steps import augment
from alexnet_jax.training.loop import train


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Two short runs on the same data with different seeds."""
  folders = [tmp_path_factory.mktemp(f'run{seed}') for seed in (0, 1)]
  for seed, folder in enumerate(folders):
    config = tiny_config(train__epochs=6.0, optim__rate=0.003)
    config.seed = seed
    train(config, folder)
  return folders


def reference_probabilities(workdirs, weights, views, batch_size=5):
  """Returns mean probabilities `[N, classes]` and labels, computed by `module.apply` image by image."""
  total, images, labels = 0, [], []
  for workdir, weight in zip(workdirs, weights, strict=True):
    trained = loading.load(workdir, 'best', config_lib.load_workdir(workdir))
    module = models.create(trained.config.model)
    apply = jax.jit(lambda p, x, m=module: jax.nn.softmax(m.apply({'params': p}, x, train=False)))
    if not images:
      with contextlib.closing(open_dataset(trained.config.data, 0)) as dataset:
        for batch in dataset.eval_batches(batch_size):
          images.extend(batch['image'][batch['mask']])
          labels.extend(batch['label'][batch['mask']])
    params = jax.device_get(trained.model.params)
    mean = np.asarray(trained.model.mean_image)
    probabilities = []
    for image in images:
      views_of = []
      for top, left, mirrored in augment.VIEWS[views]:
        y, x = int(top * 8), int(left * 8)
        crop = image[y : y + 64, x : x + 64].astype(np.float32)
        crop = crop[:, ::-1] if mirrored else crop
        # The recipe `original` subtracts the centre of the mean image without a flip.
        views_of.append(crop - mean[4:68, 4:68])
      probabilities.append(np.mean(apply(params, np.stack(views_of)), 0))
    total = total + weight * np.stack(probabilities)
  return total, np.asarray(labels)


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
def test_errors_are_those_of_the_searched_weights(runs):
  """With few classes the search minimises the top-1 error. The weights found give the same numbers."""
  config = config_lib.load_workdir(runs[0])
  found = evaluate.evaluate(config, runs, search=True)
  again = evaluate.evaluate(config, runs, weights=found.pop('weights'))
  assert found == again
  assert found['top1_error'] <= evaluate.evaluate(config, runs)['top1_error']
  with pytest.raises(UserError, match='two runs or more, in one process'):
    evaluate.evaluate(config, runs[:1], search=True)


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
  assert np.isfinite(sums['loss'])
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
  other = tiny_config(train__steps=1, data__synthetic__classes=3)
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
