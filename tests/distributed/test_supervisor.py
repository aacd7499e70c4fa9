"""The supervisor names the lost process; tests/distributed/test_multihost.py kills real processes."""

import signal
import subprocess
import sys

import pytest
from tiny import ROOT

from alexnet_jax.distributed import supervisor
from alexnet_jax.distributed.cluster import Cluster

UNHEALTHY = 'UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):\n'


@pytest.mark.parametrize(
  ('process', 'code', 'verdict', 'message'),
  [
    (0, -6, UNHEALTHY + '2\nThe tasks have crashed.', 'process 2 of 3 (on c) was lost'),
    (0, -6, UNHEALTHY + '1\n2\nThe tasks', 'process 1 of 3 (on b) and process 2 of 3 (on c) was'),
    (0, -6, UNHEALTHY + '/job:jax_worker/replica:0/task:1\nThe', 'process 1 of 3 (on b) was lost'),
    (1, -6, 'Either the leader task was preempted/died', 'process 0 of 3 (on a) was lost'),
    (0, -6, 'ERROR: UNAVAILABLE: Task 1 heartbeat timeout. This', 'process 1 of 3 (on b) was lost'),
    (1, -6, 'something else', 'the processes lost each other'),
    (1, -9, '', 'process 1 of 3 (on b) was ended by SIGKILL, often because memory ran out'),
    (
      1,
      -6,
      '',
      'process 1 of 3 (on b) was ended by SIGABRT, often because another process was lost',
    ),
  ],
)
def test_the_last_line_names_the_lost_process(process, code, verdict, message):
  cluster = Cluster('a:1', 3, process)
  line = supervisor._what_happened(cluster, code, verdict, ['a', 'b', 'c'])
  assert line.startswith(message) and 'run the same command again' in line


@pytest.mark.parametrize('before', ['', '[Gloo] Rank 1 is connected to', 'step 4/30  '])
def test_a_loss_is_recognised_behind_the_text_of_another_thread(monkeypatch, capsys, before):
  """A real child prints the line of JAX and aborts; the supervisor then names the lost process."""
  line = (
    f'{before}E1129 06:00:00.0 1 coordination_service_agent.cc:1] ERROR: Task 0 heartbeat timeout.'
  )
  program = f'import os, sys; print({line!r}, file=sys.stderr, flush=True); os.abort()'
  monkeypatch.setattr(supervisor.sys, 'orig_argv', [supervisor.sys.executable, '-c', program])
  handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
  try:
    assert supervisor.supervise(Cluster('a:1', 2, 1)) == supervisor.LOST_PEER
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler)
  assert 'did not find the others' in capsys.readouterr().err


# A supervisor whose child prints more than a pipe holds, notes that it has ended, and fails.
UNREAD = """
import pathlib, sys
from alexnet_jax.distributed import supervisor
from alexnet_jax.distributed.cluster import Cluster
child = '''
import pathlib, sys
print("started", file=sys.stderr, flush=True)
sys.stdin.readline()
for _ in range(3000):
  print("x" * 99, file=sys.stderr, flush=True)
pathlib.Path(sys.argv[1]).touch()
sys.exit(3)
'''
sys.orig_argv = [sys.executable, '-c', child, sys.argv[1]]
sys.exit(supervisor.supervise(Cluster('a:1', 2, 1)))
"""


def test_a_run_whose_output_nobody_reads_goes_on_to_its_end(tmp_path):
  """The program that read its output has ended, as with a lost connection without a terminal."""
  end = tmp_path / 'end'
  with subprocess.Popen(
    [sys.executable, '-c', UNREAD, str(end)],
    cwd=ROOT,
    stdin=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stderr.readline() == 'started\n'
    process.stderr.close()
    process.stdin.write('go on\n')
    process.stdin.close()
    assert process.wait(timeout=120) == 3
  assert end.exists()


def test_the_last_line_if_the_processes_never_met():
  line = supervisor._what_happened(Cluster('a:1', 3, 2), -6, 'DEADLINE_EXCEEDED', [])
  assert line.startswith('process 2 of 3 did not find the others at a:1')
