"""Several processes train one run, and the remaining processes name a process that is lost."""

import json
import re
import signal

import jax
from multihost_helpers import LINES, OVERRIDES, undisturbed_rows
import numpy as np
import pytest
from tiny import ProcessGroup, read_metrics, wait_for_lines, write_config

from alexnet_jax.cli import main as main_lib
from alexnet_jax.data.statistics import Sums
from alexnet_jax.distributed import multihost
from alexnet_jax.distributed.cluster import Cluster
from alexnet_jax.errors import UserError


def test_the_sum_over_one_process_is_its_own_value():
  sums = Sums(np.ones(()), np.arange(4.0), np.eye(3))
  assert multihost.add_up(sums) is sums
  assert multihost.share() == (0, 1) and multihost.is_primary()


def test_processes_wait_long_for_one_that_still_works(monkeypatch):
  """JAX's default of 300 s ended the others while process 0 fitted the baseline of `eval` alone."""
  found = {}

  def initialize(**arguments):
    found.update(arguments)
    raise RuntimeError('enough')

  monkeypatch.setattr(jax.config, 'update', lambda *_: None)
  monkeypatch.setattr(jax.distributed, 'initialize', initialize)
  with pytest.raises(UserError, match='did not find each other'):
    multihost.join(Cluster('localhost:1', 2, 0), 100, False)
  assert found['shutdown_timeout_seconds'] >= 12 * 3600
  assert found['heartbeat_timeout_seconds'] == 100


PEER_TIMEOUT = '--peer_timeout=8'


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
  return undisturbed_rows(tmp_path_factory.mktemp('undisturbed'))


@pytest.mark.long
def test_a_lost_process_is_named_and_the_same_command_resumes(tmp_path, undisturbed):
  workdir = tmp_path / 'run'
  args = f'--config={write_config(tmp_path, **OVERRIDES)}', f'--workdir={workdir}', PEER_TIMEOUT
  with ProcessGroup(*args) as run:
    wait_for_lines(workdir, LINES, *run.processes)
    run.processes[1].kill()
    survivor, killed = run.wait(timeout=60)
  assert killed.returncode == -signal.SIGKILL
  assert survivor.returncode == 3 and survivor.stdout == ''
  assert 'process 1 of 2' in survivor.stderr.splitlines()[-1]
  assert 'Traceback' not in survivor.stderr and '***' not in survivor.stderr
  with ProcessGroup(*args) as run:
    first, second = run.wait()
  assert first.returncode == second.returncode == 0, first.stderr + second.stderr
  assert 'resuming' in first.stderr
  assert second.stdout == second.stderr == ''
  assert len(first.stdout.splitlines()) == 1 and json.loads(first.stdout)['step'] == 150
  assert read_metrics(workdir) == undisturbed


@pytest.mark.long
def test_a_run_without_its_coordinator_resumes_with_another_number_of_processes(
  tmp_path, undisturbed, caplog
):
  """Process 0 is killed. One process with one device then resumes the run."""
  workdir = tmp_path / 'run'
  config = write_config(tmp_path, **OVERRIDES)
  with ProcessGroup(f'--config={config}', f'--workdir={workdir}', PEER_TIMEOUT) as run:
    wait_for_lines(workdir, LINES, *run.processes)
    run.processes[0].kill()
    _, survivor = run.wait(timeout=60)
  assert survivor.returncode == 3
  assert 'process 0 of 2' in survivor.stderr.splitlines()[-1], survivor.stderr[-6000:]
  alone = '--config.mesh=1,1', '--config.train.steps=30'
  assert main_lib.main([f'--config={config}', f'--workdir={workdir}', *alone]) == 0
  assert 'resuming' in caplog.text
  rows = [row for row in read_metrics(workdir) if 'lr' in row]
  expected = [row for row in undisturbed if 'lr' in row][: len(rows)]
  assert [row['loss'] for row in rows] == pytest.approx([row['loss'] for row in expected], rel=1e-3)


@pytest.mark.long
def test_sigterm_to_one_process_stops_all_at_the_same_step(tmp_path, capsys):
  """Two processes with half of the batch each give the numbers of one process in training and evaluation."""
  workdir = tmp_path / 'run'
  config = write_config(tmp_path, **(OVERRIDES | {'mesh': (2, 1), 'train__epochs': 4000.0}))
  with ProcessGroup(f'--config={config}', f'--workdir={workdir}', PEER_TIMEOUT) as run:
    wait_for_lines(workdir, 4, *run.processes)
    run.processes[1].terminate()
    stopped = run.wait()
  assert [one.returncode for one in stopped] == [75, 75], stopped[0].stderr
  first, second = (one.stderr.splitlines()[-1] for one in stopped)
  assert first == second and 'stopped by SIGTERM at step' in first
  step = re.search(r'at step (\d+)', first)[1]
  args = f'--config={config}', f'--workdir={tmp_path / "one"}', f'--config.train.steps={step}'
  assert main_lib.main([*args]) == 0
  capsys.readouterr()
  logs = read_metrics(workdir), read_metrics(tmp_path / 'one')
  rows = [[row['loss'] for row in log if 'lr' in row] for log in logs]
  # The sums are rounded in another order, so that the losses drift apart after a hundred steps or so.
  assert len(rows[0]) >= 4
  assert rows[0][:20] == pytest.approx(rows[1][: len(rows[0])][:20], rel=1e-6)
  with ProcessGroup('--mode=eval', f'--workdir={workdir}', '--config.mesh=2,1') as run:
    results = run.wait()
  assert [one.returncode for one in results] == [0, 0], results[0].stderr
  assert main_lib.main(['--mode=eval', f'--workdir={workdir}', '--config.mesh=1,1']) == 0
  together, other = json.loads(results[0].stdout), results[1].stdout
  assert other == ''
  assert together == pytest.approx(json.loads(capsys.readouterr().out))


@pytest.mark.long
def test_a_result_that_nobody_reads_is_no_error(tmp_path):
  config = write_config(tmp_path)
  with ProcessGroup('--mode=describe', f'--config={config}', processes=1) as run:
    run.processes[0].stdout.close()
    stderr = run.processes[0].stderr.read()
    assert run.processes[0].wait() == 0, stderr
  assert 'Traceback' not in stderr


@pytest.mark.long
def test_sigterm_while_a_run_resumes_stops_all(tmp_path):
  """The signal arrives before the first step of the resumed run, whose number is above 1."""
  workdir = tmp_path / 'run'
  config = write_config(tmp_path, **(OVERRIDES | {'mesh': (2, 1), 'train__epochs': 4000.0}))
  args = f'--config={config}', f'--workdir={workdir}'
  assert main_lib.main([*args, '--config.mesh=1,1', '--config.train.steps=3']) == 0
  with ProcessGroup(*args, PEER_TIMEOUT) as run:
    while 'resuming' not in (line := run.processes[0].stderr.readline()):
      assert line
    run.processes[1].terminate()
    stopped = run.wait(timeout=120)
  assert [one.returncode for one in stopped] == [75, 75], stopped[0].stderr
  assert all('stopped by SIGTERM at step' in one.stderr.splitlines()[-1] for one in stopped)


@pytest.mark.long
def test_a_failure_in_one_process_stops_the_other(tmp_path):
  """If the workdir is not shared, process 1 fails, because a file that it waits for never appears."""
  args = f'--config={write_config(tmp_path, **OVERRIDES)}', PEER_TIMEOUT
  own = {i: (f'--workdir={tmp_path / str(i)}',) for i in (0, 1)}
  with ProcessGroup(*args, own=own) as run:
    survivor, failed = run.wait()
  assert failed.returncode == 2 and 'is not the same folder' in failed.stderr
  assert survivor.returncode == 3 and 'process 1 of 2' in survivor.stderr.splitlines()[-1]


@pytest.mark.long
@pytest.mark.parametrize(
  ('both', 'second', 'message'),
  [
    (('--config.mesh=1,1',), (), 'leaves process 1 of 2 without a device'),
    ((), ('--config.seed=5',), 'the config differs between processes'),
  ],
)
def test_a_failure_in_all_processes_is_reported_by_all(tmp_path, both, second, message):
  args = f'--config={write_config(tmp_path, **OVERRIDES)}', f'--workdir={tmp_path}', *both
  with ProcessGroup(*args, own={1: second}) as run:
    results = run.wait()
  assert [one.returncode for one in results] == [2, 2]
  assert all(message in one.stderr.splitlines()[-1] for one in results)


@pytest.mark.long
def test_describe_counts_the_same_collectives_with_two_processes(tmp_path, capsys):
  args = '--mode=describe', f'--config={write_config(tmp_path, **(OVERRIDES | {"mesh": (2, 1)}))}'
  with ProcessGroup(*args) as run:
    first, second = run.wait()
  assert main_lib.main([*args]) == 0
  assert json.loads(first.stdout) == (alone := json.loads(capsys.readouterr().out))
  assert second.returncode == 0 and second.stdout == ''
  assert len(alone['collectives']) >= 1
