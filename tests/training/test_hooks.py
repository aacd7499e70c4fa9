"""The hooks of the training loop: when each is due, and what it writes and records."""

import contextlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import read_metrics, tiny_config
from training_helpers import open_run

from alexnet_jax.training import hooks
from alexnet_jax.training.pending_losses import NonFiniteError
from alexnet_jax.training.run import Record, start

FEW = {'model__layers': ('conv1', 'fc6', 'fc8')}
SUMS = {'loss': 6.0, 'steps': 3.0, 'correct': 18.0, 'examples': 24.0}


@pytest.fixture
def begin(tmp_path):
  """`begin(**overrides) -> (run, state, statistics, record, outputs)` of a new run in `tmp_path`."""
  with contextlib.ExitStack() as stack:

    def function(**overrides):
      run = stack.enter_context(open_run(tiny_config(**FEW, **overrides), tmp_path))
      state, statistics, record = start(run)
      outputs = stack.enter_context(hooks.Outputs(run, 0, record.unevaluated))
      return run, state, statistics, record, outputs

    yield function


def due(hook, last):
  return [step for step in range(1, last + 1) if hook.due(step)]


def test_when_hooks_are_due(begin):
  """The run has 12 steps and an epoch has 5, so that the last epoch is incomplete."""
  run, _, statistics, record, outputs = begin(
    train__steps=12, train__log_every=5, train__diagnose_every=6, train__checkpoint_every=4
  )
  assert due(hooks.Log(run, record, outputs), 12) == [5, 10, 12]
  assert due(hooks.Diagnose(run, statistics, outputs), 12) == [6, 12]
  assert due(hooks.Evaluate(run, statistics, record, outputs), 12) == [5, 10, 12]
  assert due(hooks.Save(run, statistics, record, outputs), 12) == [4, 8, 12]


def test_hooks_can_be_switched_off(begin):
  run, _, statistics, record, outputs = begin(
    train__steps=12, train__diagnose_every=0, train__evaluate=False
  )
  assert not due(hooks.Diagnose(run, statistics, outputs), 12)
  assert not due(hooks.Evaluate(run, statistics, record, outputs), 12)


def test_log_writes_means_and_resets_the_sums(begin, tmp_path):
  run, state, _, record, outputs = begin()
  state = state.replace(sums={name: jnp.float32(value) for name, value in SUMS.items()})
  state = hooks.Log(run, record, outputs)(10, state, 0.02)
  assert all(float(value) == 0 for value in state.sums.values())
  (row,) = read_metrics(tmp_path)
  assert row == {'step': 10, 'epoch': 2.0, 'loss': 2.0, 'train/top1_error': 25.0, 'lr': 0.02}
  assert record.loss == 2.0


def test_log_refuses_a_non_finite_loss(begin, tmp_path):
  run, state, _, record, outputs = begin()
  sums = {name: jnp.float32(value) for name, value in (SUMS | {'loss': np.nan}).items()}
  with pytest.raises(NonFiniteError) as error:
    hooks.Log(run, record, outputs)(10, state.replace(sums=sums), 0.02)
  assert error.value.step == 10 and read_metrics(tmp_path) == []


def test_evaluate_counts_complete_epochs_in_the_plateau_rule(begin, tmp_path):
  run, state, statistics, record, outputs = begin(train__until_train_error=1.0)
  evaluate = hooks.Evaluate(run, statistics, record, outputs)
  errors = evaluate(7, state)
  assert record.schedule == Record().schedule and record.validation == errors
  assert errors == evaluate(10, state)  # the state has not changed
  assert record.schedule.best_error == errors['val/top1_error']
  assert (errors['val/examples'], errors['train_set/examples']) == (18, 40)
  assert [row['step'] for row in read_metrics(tmp_path)] == [7, 10]


def test_save_stores_the_record_and_amend_replaces_it(begin):
  run, state, statistics, _, outputs = begin()
  record = Record(loss=1.5, unevaluated=True)
  save = hooks.Save(run, statistics, record, outputs)
  save(0, state, None)
  assert run.checkpoints.latest() == 0 and run.checkpoints.meta(0)['unevaluated']
  assert run.checkpoints.errors(0) == {}
  record.unevaluated, record.validation = False, {'val/top1_error': 3.0}
  save.amend(0, record.validation)
  meta = run.checkpoints.meta(0)
  assert meta['validation'] == {'val/top1_error': 3.0} and not meta['unevaluated']
  assert run.checkpoints.errors(0) == record.validation
  assert (meta['loss'], meta['num_train'], meta['epoch']) == (1.5, 40, 0.0)
  manifest = json.loads((run.checkpoints.folder / '0' / 'manifest.json').read_text())
  assert manifest['facts']['metrics'] == {'val/top1_error': 3.0}


def test_save_refuses_non_finite_numbers(begin):
  run, state, statistics, record, outputs = begin()
  broken = jax.tree.map(lambda leaf: leaf * jnp.nan, state.params)
  with pytest.raises(NonFiniteError):
    hooks.Save(run, statistics, record, outputs)(4, state.replace(params=broken), None)
  assert run.checkpoints.latest() is None


def test_outputs_exclude_paused_time(begin, monkeypatch):
  *_, outputs = begin()
  clock = iter([10.0, 14.0])
  monkeypatch.setattr(hooks.time, 'perf_counter', lambda: next(clock))
  with outputs.untimed():
    pass
  assert outputs.timer._paused == 4.0
