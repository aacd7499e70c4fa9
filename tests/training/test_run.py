"""The settings of a run, those that depend on the data, and the start with and without a checkpoint."""

import contextlib

import chex
import jax
from ml_collections import FrozenConfigDict
import numpy as np
from PIL import Image
import pytest
from tiny import tiny_config
from training_helpers import final_state, open_run

from alexnet_jax.errors import UserError
from alexnet_jax.training.loop import train
from alexnet_jax.training.run import Record, start

FEW = {'model__layers': ('conv1', 'fc6', 'fc8')}


def test_epochs_and_steps(tmp_path):
  with open_run(tiny_config(train__epochs=3.0), tmp_path) as run:
    assert isinstance(run.config, FrozenConfigDict) and run.total_steps == 15
    assert run.epoch(5) == 1 and run.epoch(7) == 1.4
    assert [step for step in range(1, 16) if run.epoch_ended(step)] == [5, 10, 15]


def test_batches_start_at_any_step(tmp_path):
  with open_run(tiny_config(), tmp_path) as run:
    all_batches, later = run.batches(0), run.batches(2)
    two, third = [next(all_batches) for _ in range(2)], next(all_batches)
    chex.assert_trees_all_equal(jax.device_get(next(later)), jax.device_get(third))
    assert not np.array_equal(two[0]['index'], two[1]['index'])
    all_batches.close()
    later.close()


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'model__num_classes': 7}, 'num_classes=7, but synthetic has 4 classes: set'),
    ({'eval__weights': 'ema'}, 'config.optim.ema is 0: set'),
    ({'model__norm': 'batch', 'optim__ema': 0.9}, 'averages the weights alone'),
  ],
)
def test_configs_that_do_not_fit_the_data_are_refused(tmp_path, overrides, message):
  with pytest.raises(UserError, match=message), open_run(tiny_config(**overrides), tmp_path):
    pass


def test_a_run_starts_new_or_from_its_checkpoint(tmp_path):
  config = tiny_config(train__steps=5, optim__schedule='plateau', **FEW)
  with open_run(config, tmp_path / 'new') as run:
    state, _, record = start(run)
    assert int(state.step) == 0 and record == Record()
  train(config, tmp_path / 'trained')
  with open_run(config, tmp_path / 'trained') as run:
    state, statistics, record = start(run)
    assert int(state.step) == 5 and np.isfinite(record.loss) and not record.unevaluated
    assert record.schedule.best_error == record.validation['val/top1_error']
    chex.assert_shape(statistics.mean_image, (72, 72, 3))
    chex.assert_trees_all_equal(jax.device_get(state), final_state(None, tmp_path / 'trained'))


def test_the_best_error_and_the_evaluations_since_then():
  record = Record()
  for step, error, counts in ((5, 9.0, True), (10, 7.0, True), (15, 8.0, True), (18, 8.0, False)):
    record.add_error(step, error, counts)
  assert (record.best_error, record.best_step, record.stale) == (7.0, 10, 1)
  record.add_error(20, 7.0, True)  # an equal error is not lower, but its checkpoint is the best one
  assert (record.best_error, record.best_step, record.stale) == (7.0, 20, 2)
  record.add_error(
    23, 6.0, False
  )  # within an epoch: the best checkpoint, but early stopping ignores it
  assert (record.best_error, record.best_step, record.stale) == (6.0, 23, 2)
  options = tiny_config(train__early_stopping=2).train
  assert 'not become lower in 2 evaluations' in record.reason_to_end(options)
  record.add_error(25, 6.5, True)
  assert (record.best_error, record.best_step, record.stale) == (6.0, 23, 0)
  options.early_stopping = 3
  assert record.reason_to_end(options) == ''
  options.early_stopping = 0
  assert record.reason_to_end(options) == ''


def test_balanced_class_weights(tmp_path):
  """The classes have 4 and 12 training images; the mean weight of an image is 1."""
  rng = np.random.default_rng(0)
  for name, number in (('a', 4), ('b', 12)):
    for i in range(number):
      path = tmp_path / 'images' / 'train' / name / f'{i}.png'
      path.parent.mkdir(parents=True, exist_ok=True)
      Image.fromarray(rng.integers(0, 255, (80, 80, 3), np.uint8)).save(path)
  changes = {'data__source': f'folder:{tmp_path / "images"}', 'data__holdout': 0.0}
  config = tiny_config(train__class_weights='balanced', **changes)
  with open_run(config, tmp_path / 'run') as run, contextlib.closing(run.batches(0)) as batches:
    np.testing.assert_allclose(run.class_weights, [2, 2 / 3], rtol=1e-6)
    found = [jax.device_get(next(batches)) for _ in range(2)]
  for batch in found:
    np.testing.assert_array_equal(batch['weight'], run.class_weights[batch['label']])
  assert np.mean([batch['weight'] for batch in found]) == pytest.approx(1)
  with open_run(tiny_config(**changes), tmp_path / 'plain') as run:
    assert run.class_weights is None


@pytest.mark.parametrize(
  ('validation', 'target', 'reached'),
  [
    ({'train_set/top1_error': 5.0}, 5.0, True),
    ({'train_set/top1_error': 5.1}, 5.0, False),
    ({'train_set/top1_error': 0.0}, 0.0, False),  # 0 means that there is no target
    ({'val/top1_error': 1.0}, 5.0, False),
  ],
)
def test_when_the_target_error_is_reached(validation, target, reached):
  assert Record(validation=validation).has_reached(target) == reached
