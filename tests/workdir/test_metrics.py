"""Metrics are written to Weights & Biases and to the progress line, and windows of steps are profiled."""

import json
import os
import pty
import sys

import pytest
from tiny import tiny_config

from alexnet_jax.errors import UserError
from alexnet_jax.training.loop import train
from alexnet_jax.utils.console import say_error
from alexnet_jax.workdir import metrics as metrics_lib
from alexnet_jax.workdir.metrics import Metrics, Progress, Timer


@pytest.mark.long
def test_a_window_of_steps_is_traced(tmp_path):
  """A resumed run traces the steps in the window. A run that ends before the window traces nothing."""
  train(tiny_config(train__steps=2, train__profile=(3, 4)), tmp_path)
  assert not (tmp_path / 'profile').exists()
  train(tiny_config(train__steps=5, train__profile=(3, 4)), tmp_path)
  (trace,) = (tmp_path / 'profile').rglob('*.xplane.pb')
  assert b'jit_step' in trace.read_bytes() or b'PjitFunction(step)' in trace.read_bytes()


@pytest.mark.parametrize('steps', [(3,), (4, 3), (0, 2), (1.0, 2.0)])
def test_invalid_profile_windows_are_refused(tmp_path, steps):
  with pytest.raises(
    UserError, match=r'config\.train\.profile=.*must be the first and the last step'
  ):
    train(tiny_config(train__profile=steps), tmp_path)


@pytest.mark.long
def test_weights_and_biases_offline(tmp_path, monkeypatch):
  pytest.importorskip('wandb', reason='Weights & Biases is an extra: pip install wandb')
  monkeypatch.setenv('WANDB_MODE', 'offline')
  for steps in (2, 4):  # the second run resumes the first
    train(tiny_config(train__steps=steps, log__wandb='alexnet'), tmp_path)
  files = sorted(tmp_path.glob('wandb/*/*.wandb'))
  written = b''.join(path.read_bytes() for path in files)  # the file contains numbers as JSON
  rows = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  for row in rows:
    for name in set(row) - {'step'}:
      assert name.encode() in written and json.dumps(row[name]).encode() in written
  assert [row['step'] for row in rows if 'loss' in row] == [2, 4]
  assert len({path.name.removeprefix('run-') for path in files}) == 1  # both wrote to one run


def terminal_output(monkeypatch, **environment) -> str:
  """Returns the text that a terminal receives for two lines of progress and an error."""
  for name in ('NO_COLOR', 'TERM'):
    monkeypatch.delenv(name, raising=False)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  values = {'epoch': 1.0, 'loss': 0.5, 'lr': 0.01, 'images_per_s': 9.0, 'data_wait_frac': 0.0}
  outer, inner = pty.openpty()
  with os.fdopen(inner, 'w') as terminal:
    monkeypatch.setattr(sys, 'stderr', terminal)
    progress = Progress(10)
    progress.show(1, values)
    progress.show(2, values)
    progress.end()
    say_error('message')
    print('the end', end='', file=terminal, flush=True)
    text = ''
    while not text.endswith('the end'):  # read up to the last print
      text += os.read(outer, 10_000).decode()
  os.close(outer)
  return text


def test_a_terminal_gets_colours(monkeypatch):
  text = terminal_output(monkeypatch, TERM='xterm')
  assert '\x1b[1mstep 2/10\x1b[0m' in text and '\x1b[1;31merror:\x1b[0m message' in text
  # The progress line is overwritten; the error has its own line.
  assert text.count('\r\x1b[') == 2 and text.count('\n') == 2


@pytest.mark.parametrize('environment', [{'NO_COLOR': '1'}, {'TERM': 'dumb'}])
def test_colours_can_be_disabled(monkeypatch, environment):
  text = terminal_output(monkeypatch, **environment)
  assert (
    'step 2/10  epoch 1.00  loss 0.5000  lr 0.01' in text and 'm' not in text.split('\x1b[')[1][:3]
  )


def test_a_log_has_plain_lines(capsys):
  progress = Progress(10)
  progress.show(1, {'epoch': 1, 'loss': 0.5, 'lr': 1, 'images_per_s': 9, 'data_wait_frac': 0})
  progress.end()
  err = capsys.readouterr().err
  assert err.startswith('step 1/10  epoch 1.00  loss') and err.endswith('\n') and '\x1b' not in err


@pytest.fixture
def clock(monkeypatch):
  """A clock that tests set: `clock[0]` is the time in seconds."""
  now = [100.0]
  monkeypatch.setattr(metrics_lib.time, 'perf_counter', lambda: now[0])
  return now


def test_the_first_step_is_not_part_of_a_lap(clock):
  """The first step of a session compiles the program."""
  timer = Timer()
  clock[0] += 60
  timer.trained(128)
  timer.started()
  assert timer.lap()[0] == pytest.approx(128 / 60)  # there is nothing else to report yet
  for _ in range(5):
    timer.wait_for(iter([None]))
    clock[0] += 0.5
    timer.trained(128)
  clock[0] += 10
  timer.paused(10)
  assert timer.lap() == (pytest.approx(256), 0.0)


def test_the_time_left_counts_neither_compilation_nor_old_pauses(clock, capsys):
  values = {'epoch': 1, 'loss': 0.5, 'lr': 1, 'images_per_s': 9, 'data_wait_frac': 0}
  progress, left = Progress(100_000), []
  clock[0] += 60
  for line in range(1, 61):
    clock[0] += 10 if line != 30 else 28_810  # 100 steps, and once eight hours of a stopped process
    progress.show(100 * line, values)
    left.append(capsys.readouterr().err.strip().rpartition('left ')[2])
  assert left[0] == '?' and left[1] == '2:46:20'  # 99,800 steps of 0.1 s
  assert left[59] == '2:36:40'  # 94,000 steps of 0.1 s


def test_tensorboard_has_a_line_as_soon_as_it_is_written(tmp_path):
  """Another thread would lose it if the process were killed."""
  config = tiny_config(log__tensorboard=True)
  for step in (0, 4):
    metrics = Metrics(tmp_path, step, config)
    metrics.write(step + 2, {'loss': 0.5, 'val/top1_error': 12})
    assert b'val/top1_error' in max((tmp_path / 'tensorboard').iterdir()).read_bytes()
  assert len(list((tmp_path / 'tensorboard').iterdir())) == 2
