"""SIGTERM before the first step, during an evaluation, and in the middle of a run."""

import itertools
import os
import signal
import time

import chex
from jax.experimental import multihost_utils
import pytest
from tiny import read_metrics, started, tiny_config, until, write_config
from training_helpers import final_state

from alexnet_jax import steps
from alexnet_jax.distributed import multihost
from alexnet_jax.errors import Preempted
from alexnet_jax.training import loop, preemption
from alexnet_jax.training.loop import train
from alexnet_jax.workdir.checkpoint import Checkpoints


@pytest.mark.long
def test_sigterm_before_the_first_step_exits_at_once(tmp_path, monkeypatch):
  """The signal arrives while XLA compiles the first step, when there is nothing to save."""
  # No compilation cache contains the step for this width and batch size.
  config = write_config(tmp_path, model__width=0.5, train__batch_size=6)
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'cache'))
  log = tmp_path / 'log'
  with started(log, f'--config={config}', f'--workdir={tmp_path / "run"}') as process:
    until(lambda: process.poll() is not None or 'and 18 validation images' in log.read_text())
    process.terminate()
    assert process.wait(120) == 75, log.read_text()
  assert log.read_text().splitlines()[-1] == (
    'stopped by SIGTERM before there was anything new to save: the same command resumes the run'
  )
  assert not list((tmp_path / 'run' / 'checkpoints').iterdir())


def test_several_processes_stop_a_resumed_run_and_wait_for_its_checkpoint(tmp_path, monkeypatch):
  """The signal arrives before the first step after that of the checkpoint; JAX then names the first call."""
  train(tiny_config(train__steps=3, **OVERRIDES), tmp_path)
  waits = []

  class Several(preemption.StopSignal):
    _calls = itertools.count(1)

    def __init__(self):
      super().__init__()
      self._multiprocess = True

  def wait_for_all(name):
    waits.append((name, (tmp_path / 'checkpoints' / '4').is_dir()))

  monkeypatch.setattr(loop, 'StopSignal', Several)
  monkeypatch.setattr(multihost, 'wait_for_all', wait_for_all)
  monkeypatch.setattr(multihost_utils, 'reached_preemption_sync_point', lambda number: number == 1)
  with pytest.raises(Preempted, match='at step 4 after writing a checkpoint'):
    train(tiny_config(train__steps=10, **OVERRIDES), tmp_path)
  assert waits[-1] == ('checkpoint sealed', True)


OVERRIDES = {
  'model__layers': ('conv1', 'fc6', 'fc8'),
  'optim__schedule': 'plateau',
  'optim__plateau__patience': 1,
  'train__log_every': 1,
}


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
  """An uninterrupted run of two epochs."""
  workdir, before = tmp_path_factory.mktemp('whole'), signal.getsignal(signal.SIGTERM)
  train(tiny_config(train__steps=10, **OVERRIDES), workdir)
  assert signal.getsignal(signal.SIGTERM) is before and signal.set_wakeup_fd(-1) == -1
  return workdir


@pytest.mark.long
@pytest.mark.parametrize('evaluation', [1, 2])
def test_an_interrupted_evaluation_is_repeated(tmp_path, uninterrupted, monkeypatch, evaluation):
  """The evaluation ends between two batches, and the resumed run first repeats it.

  The run has two evaluations, of which the second is at the last step.
  """
  make, calls = steps.make_predict_step, []

  def make_terminated(*args):
    predict = make(*args)

    def terminated(*arguments):
      calls.append(None)
      if len(calls) == 3 * evaluation - 1:  # the second of three batches
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)  # gives the thread that waits for signals time to read this one
      return predict(*arguments)

    return terminated

  config = tiny_config(train__steps=10, **OVERRIDES)
  with (
    monkeypatch.context() as patch,
    pytest.raises(Preempted, match=f'step {5 * evaluation} after'),
  ):
    patch.setattr(steps, 'make_predict_step', make_terminated)
    train(config, tmp_path)
  assert len(calls) == 3 * evaluation - 1
  with Checkpoints(tmp_path, read_only=True) as checkpoints:
    assert (
      checkpoints.latest() == 5 * evaluation and checkpoints.meta(5 * evaluation)['unevaluated']
    )
  assert sum('val/loss' in row for row in read_metrics(tmp_path)) == evaluation - 1
  # The run is killed after it wrote the evaluation to metrics.jsonl and before it amended the checkpoint.
  with monkeypatch.context() as patch:
    patch.setattr(Checkpoints, 'amend', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
      train(config, tmp_path)
  summary = train(config, tmp_path)
  assert read_metrics(tmp_path) == read_metrics(uninterrupted)
  chex.assert_trees_all_equal(final_state(None, tmp_path), final_state(None, uninterrupted))
  with (
    Checkpoints(tmp_path, read_only=True) as ours,
    Checkpoints(uninterrupted, read_only=True) as theirs,
  ):
    assert ours.best() == theirs.best()
    assert ours.meta(10) == theirs.meta(10)
  assert summary['top1_error'] == read_metrics(uninterrupted)[-1]['val/top1_error']
