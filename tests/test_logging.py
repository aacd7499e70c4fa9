"""Where a run's numbers go beside metrics.jsonl, traces of some steps, and what a terminal shows."""

import json

import pytest
from tiny import tiny_config

from alexnet_jax.errors import UserError
from alexnet_jax.train import train


def test_a_window_of_steps_is_traced(tmp_path):
  """A resumed run traces again what lies in its window; steps outside it leave nothing."""
  train(tiny_config(train__steps=2, train__profile=(3, 4)), tmp_path)
  assert not (tmp_path / 'profile').exists()
  train(tiny_config(train__steps=5, train__profile=(3, 4)), tmp_path)
  (trace,) = (tmp_path / 'profile').rglob('*.xplane.pb')
  assert b'jit_step' in trace.read_bytes() or b'PjitFunction(step)' in trace.read_bytes()


@pytest.mark.parametrize('steps', [(3,), (4, 3), (0, 2), (1.0, 2.0)])
def test_windows_that_cannot_be(tmp_path, steps):
  with pytest.raises(
    UserError, match=r'config\.train\.profile=.*write the first and the last step'
  ):
    train(tiny_config(train__profile=steps), tmp_path)


def test_weights_and_biases_offline(tmp_path, monkeypatch):
  pytest.importorskip('wandb', reason='an extra: pip install wandb')
  monkeypatch.setenv('WANDB_MODE', 'offline')
  for steps in (2, 4):  # the second resumes the first
    train(tiny_config(train__steps=steps, log__wandb='alexnet'), tmp_path)
  files = sorted(tmp_path.glob('wandb/*/*.wandb'))
  written = b''.join(path.read_bytes() for path in files)  # numbers are JSON in there
  rows = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  for row in rows:
    for name in set(row) - {'step'}:
      assert name.encode() in written and json.dumps(row[name]).encode() in written
  assert [row['step'] for row in rows if 'loss' in row] == [2, 4]
  assert len({path.name.removeprefix('run-') for path in files}) == 1  # one run, continued
