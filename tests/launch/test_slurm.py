"""`launch/slurm.sbatch` on a real SLURM: a controller and two nodes on this machine.

test_scripts.py checks the same script without SLURM.
"""

import json
import os
import pathlib
import signal
import sys
import time

from multihost_helpers import LINES, OVERRIDES, undisturbed_rows
import pytest
import slurm_cluster
from tiny import ROOT, read_metrics, write_config

pytestmark = [
  pytest.mark.long,
  pytest.mark.skipif(
    bool(slurm_cluster.reason_not_to_run()), reason=slurm_cluster.reason_not_to_run()
  ),
]


@pytest.fixture(scope='module')
def slurm(tmp_path_factory):
  with slurm_cluster.cluster(tmp_path_factory.mktemp('slurm')) as slurm:
    venv = slurm.folder / 'venv'
    (venv / 'bin').mkdir(parents=True)
    python = venv / 'bin' / 'python'
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    # By this copy setup.sh recognises that the requirements are installed.
    texts = [(ROOT / name).read_text() for name in ('constraints.txt', 'requirements.txt')]
    (venv / '.alexnet_jax_requirements.txt').write_text(''.join(texts))
    slurm.environment |= {
      'VIRTUAL_ENV': str(venv),
      'PATH': f'{venv / "bin"}:{slurm.environment["PATH"]}',
      'JAX_PLATFORMS': 'cpu',
      'JAX_NUM_CPU_DEVICES': '1',
    }
    yield slurm


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
  return undisturbed_rows(tmp_path_factory.mktemp('undisturbed'))


class Job:
  """A submitted job.

  Attributes:
    number: its number.
    log: the file with its output.
  """

  def __init__(self, slurm: slurm_cluster.Slurm, folder: pathlib.Path, *arguments: str):
    """Submits `launch/slurm.sbatch`; options of sbatch come first in `arguments`."""
    options = [word for word in arguments if word.startswith(('--array', '--nodes'))]
    rest = [word for word in arguments if word not in options]
    options += ['--gpus-per-node=2', '--cpus-per-task=1', f'--output={folder}/%x-%j.log']
    line = ['sbatch', '--parsable', *options, 'launch/slurm.sbatch', *rest]
    self._slurm = slurm
    self.number = slurm.run(*line, cwd=ROOT).strip()
    self.log = folder / f'alexnet_jax-{self.number}.log'

  def text(self) -> str:
    return self.log.read_text() if self.log.exists() else ''

  def wait(self, *states: str) -> dict[str, str]:
    return self._slurm.wait_for(self.number, *states)

  def wait_for_lines(self, workdir: pathlib.Path, lines: int) -> None:
    """Waits until a run has written some lines of metrics."""
    path, deadline = workdir / 'metrics.jsonl', time.monotonic() + slurm_cluster.TIMEOUT
    while not path.exists() or len(path.read_text().splitlines()) < lines:
      state = self._slurm.job(self.number)['JobState']
      runs = state in ('PENDING', 'CONFIGURING', 'RUNNING')
      assert runs and time.monotonic() < deadline, f'{state}\n{self.text()}\n{self._slurm.logs()}'
      time.sleep(0.05)

  def requeued(self) -> None:
    """Waits until the job is in the queue again and starts it in a few seconds, not in two minutes.

    In the second in which it ended, the nodes refuse the job, because its old credential was revoked then.
    """
    self.wait('PENDING')
    self._slurm.run('scontrol', 'update', f'JobId={self.number}', 'StartTime=now+4seconds')


def train(slurm, folder: pathlib.Path) -> tuple[Job, pathlib.Path]:
  config = write_config(folder, **OVERRIDES)
  workdir = folder / 'run'
  return Job(
    slurm, folder, f'--config={config}', f'--workdir={workdir}', '--peer_timeout=8'
  ), workdir


def test_a_terminated_job_is_requeued_and_resumes(slurm, tmp_path, undisturbed):
  """Two processes hold one tower each. SIGTERM is what SLURM sends before the time limit."""
  job, workdir = train(slurm, tmp_path)
  job.wait_for_lines(workdir, LINES)
  slurm.run('scancel', '--signal=TERM', job.number)
  job.requeued()
  ended = job.wait('COMPLETED', 'FAILED', 'CANCELLED', 'TIMEOUT')
  log = job.text()
  assert ended['JobState'] == 'COMPLETED' and ended['Restarts'] == '1', log
  assert 'stopped by SIGTERM at step' in log and 'resuming' in log
  assert json.loads(log.splitlines()[-1])['step'] == 150
  assert read_metrics(workdir) == undisturbed


def test_a_killed_task_is_named_and_the_job_fails(slurm, tmp_path, undisturbed):
  job, workdir = train(slurm, tmp_path)
  job.wait_for_lines(workdir, LINES)
  for pid in slurm_cluster.processes('SLURM_PROCID', '1', str(workdir)):
    os.kill(pid, signal.SIGKILL)
  ended = job.wait('FAILED', 'COMPLETED')
  log = job.text()
  assert ended['JobState'] == 'FAILED' and ended['ExitCode'] == '3:0', log
  assert 'error: process 1 of 2' in log and 'was lost' in log
  slurm.run('scontrol', 'requeue', job.number)
  job.requeued()
  assert job.wait('COMPLETED', 'FAILED')['JobState'] == 'COMPLETED', job.text()
  assert read_metrics(workdir) == undisturbed


def test_a_job_array_prepares_a_store_in_parts(slurm, tmp_path):
  config = write_config(tmp_path)
  arguments = '--mode=prepare', f'--config={config}', f'--output={tmp_path / "store"}'
  job = Job(
    slurm, tmp_path, '--array=1-2', '--nodes=1', *arguments, '--config.prepare.shard_images=5'
  )
  for part in ('1', '2'):
    slurm.wait_for(f'{job.number}_{part}', 'COMPLETED', 'FAILED')
  texts = [path.read_text() for path in tmp_path.glob('alexnet_jax-*.log')]
  results = [
    json.loads(line) for text in texts for line in text.splitlines() if line.startswith('{')
  ]
  # Parts that end at the same moment both find the store complete.
  whole = [result for result in results if result['shards_left'] == 0]
  assert len(results) == 2 and whole
  assert all(result['images'] == {'train': 40, 'validation': 18} for result in whole)
