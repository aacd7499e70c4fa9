"""SIGTERM: nothing is lost, whatever the run is at."""

import os
import signal
import subprocess
import time

import chex
import pytest
from tiny import command, read_metrics, tiny_config, write_config
from training_helpers import final_state

from alexnet_jax import steps
from alexnet_jax.errors import Preempted
from alexnet_jax.training.loop import train
from alexnet_jax.workdir.checkpoint import Checkpoints


def test_before_the_first_step_it_leaves_at_once(tmp_path):
  """While the first step is compiled, in C++, and nothing is there to be saved."""
  config = write_config(
    tmp_path, model__width=0.5, train__batch_size=6
  )  # whose steps are in no cache
  line, env = command(f'--config={config}', f'--workdir={tmp_path / "run"}')
  env['JAX_COMPILATION_CACHE_DIR'] = str(tmp_path / 'cache')
  with subprocess.Popen(line, env=env, stderr=subprocess.PIPE, text=True) as process:
    while 'training and 18 validation images' not in (text := process.stderr.readline()):
      assert text
    process.terminate()
    _, rest = process.communicate(timeout=120)
  assert process.returncode == 75
  assert rest.splitlines()[-1] == (
    'stopped by SIGTERM before there was anything new to save: the same command resumes'
  )
  assert not list((tmp_path / 'run' / 'checkpoints').iterdir())


CHOICES = {
  'model__layers': ('conv1', 'fc6', 'fc8'),
  'optim__schedule': 'plateau',
  'optim__plateau__patience': 1,
  'train__log_every': 1,
}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A run of two epochs that nothing stopped."""
  workdir, before = tmp_path_factory.mktemp('whole'), signal.getsignal(signal.SIGTERM)
  train(tiny_config(train__steps=10, **CHOICES), workdir)
  assert signal.getsignal(signal.SIGTERM) is before and signal.set_wakeup_fd(-1) == -1
  return workdir


@pytest.mark.parametrize('evaluation', [1, 2])
def test_an_evaluation_is_left_and_made_again(tmp_path, whole, monkeypatch, evaluation):
  """It ends between two batches; the same command makes it first. The second is at the last step."""
  make, calls = steps.make_predict_step, []

  def make_terminated(*args):
    predict = make(*args)

    def terminated(*arguments):
      calls.append(None)
      if len(calls) == 3 * evaluation - 1:  # the second of three batches
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)  # until the thread that reads signals has it
      return predict(*arguments)

    return terminated

  config = tiny_config(train__steps=10, **CHOICES)
  with monkeypatch.context() as patch, pytest.raises(Preempted, match=f'step {5 * evaluation};'):
    patch.setattr(steps, 'make_predict_step', make_terminated)
    train(config, tmp_path)
  assert len(calls) == 3 * evaluation - 1
  with Checkpoints(tmp_path, read_only=True) as checkpoints:
    assert (
      checkpoints.latest() == 5 * evaluation and checkpoints.meta(5 * evaluation)['unevaluated']
    )
  assert sum('val/loss' in row for row in read_metrics(tmp_path)) == evaluation - 1
  with (
    monkeypatch.context() as patch
  ):  # killed when it had written the evaluation's line, but no more
    patch.setattr(Checkpoints, 'amend', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
      train(config, tmp_path)
  summary = train(config, tmp_path)
  assert read_metrics(tmp_path) == read_metrics(whole)
  chex.assert_trees_all_equal(final_state(None, tmp_path), final_state(None, whole))
  with Checkpoints(tmp_path, read_only=True) as ours, Checkpoints(whole, read_only=True) as theirs:
    assert ours.best() == theirs.best()
    assert ours.meta(10) == theirs.meta(10)
  assert summary['top1_error'] == read_metrics(whole)[-1]['val/top1_error']
