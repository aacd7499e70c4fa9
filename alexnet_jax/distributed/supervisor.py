"""The parent of each process of a distributed run, which reports the loss of another process in one line.

When a process is lost, JAX aborts the others from C++ with a stack trace. Here every process is the
child of a supervisor, which forwards signals to the child and the child's output to stderr. When the
child ends, the supervisor names the lost process and exits with a code that schedulers understand.
"""

import contextlib
import ctypes
import dataclasses
import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading

import jax

from alexnet_jax.distributed.cluster import Cluster
from alexnet_jax.distributed.multihost import HOSTS, START_TIMEOUT

LOST_PEER, PREEMPTED = 3, 75  # exit codes, as in `cli.main`
_CHILD = 'ALEXNET_JAX_SUPERVISED_BY'  # the environment variable with the parent's process id
_GRACE = 5  # seconds that a failing process gives the others to fail for the same reason

# The first line that JAX's C++ code prints when processes lose each other; all later lines belong to it. Text
# of another thread may precede it on the same line.
_VERDICT = re.compile(r'[EF]\d{4} .*(?:coordination_service|preemption_|client\.h)')
_UNHEALTHY = re.compile(r'stopped sending heartbeats\)?:?([^.]*)')
_SILENT = re.compile(r'Task \D*(\d+) heartbeat timeout')
_RUNTIME_ERROR = re.compile(
  r'[A-Z_]+: '
)  # start of a message of JAX's runtime, such as UNAVAILABLE:


def is_child() -> bool:
  """Returns whether a supervisor started this process."""
  return _CHILD in os.environ


def supervise(cluster: Cluster, resumes: bool = True) -> int:
  """Runs this command line again as a child process, and returns the exit code to end with.

  Args:
    cluster: the processes of the run, for messages.
    resumes: whether the same command goes on with the work after SIGTERM.

  Returns:
    The exit code of the child; 75 if it ended by SIGTERM and `resumes`; or 3 where a process was lost,
    after a line on stderr that names it.
  """
  child = subprocess.Popen(
    [sys.executable, *sys.orig_argv[1:]],
    env=os.environ | {_CHILD: str(os.getpid())},
    stderr=subprocess.PIPE,
    text=True,
    errors='replace',
  )

  forwarded = []

  def forward(number, frame) -> None:
    del frame
    forwarded.append(number)
    child.send_signal(number)

  signal.signal(signal.SIGTERM, forward)
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends SIGINT to the child too
  process, hosts, verdict = cluster.process, [], []
  for line in child.stderr or ():
    if line.startswith(HOSTS):
      process, hosts = json.loads(line.removeprefix(HOSTS))
    elif verdict or _VERDICT.search(line):
      verdict.append(line)
    elif line.startswith('[Gloo]'):
      continue  # Gloo reports every connection
    else:
      _say(line)
  code = child.wait()
  if code >= 0:
    _say(''.join(verdict))
    return code
  if (
    resumes and forwarded and code == -signal.SIGTERM
  ):  # it ended before it could handle the signal
    _say('stopped by SIGTERM before a step: the same command resumes the run\n')
    return PREEMPTED
  if hosts:  # on a Cloud TPU only JAX knows the number of processes
    cluster = dataclasses.replace(cluster, process=process, processes=len(hosts))
  _say(f'error: {_what_happened(cluster, code, "".join(verdict), hosts)}\n')
  return LOST_PEER


def _say(text: str) -> None:
  """Writes to stderr, as long as anything reads it: a run whose output nobody reads goes on."""
  try:
    sys.stderr.write(text)
    sys.stderr.flush()
  except OSError as error:
    if error.errno in (errno.EPIPE, errno.EIO):  # what is written from now on is lost
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _what_happened(cluster: Cluster, code: int, verdict: str, hosts: list[str]) -> str:
  """Returns the message that says which process was lost, why if that is known, and what to do."""

  def name(process: int) -> str:
    host = f' (on {hosts[process]})' if process < len(hosts) else ''
    return f'process {process} of {cluster.processes}{host}'

  again = 'run the same command again; training resumes from its newest checkpoint'
  if not verdict:
    why = signal.Signals(-code).name
    often = {'SIGKILL': 'memory ran out', 'SIGABRT': 'another process was lost'}.get(why)
    hint = f', often because {often}' if often else ''
    return f'{name(cluster.process)} was ended by {why}{hint}: {again}'
  if not hosts:
    return (
      f'{name(cluster.process)} did not find the others at {cluster.coordinator}: start all of them '
      f'within {START_TIMEOUT} s of each other, and let them reach that address'
    )
  found = _UNHEALTHY.search(verdict)
  numbers = re.findall(r'(?:task:|\s)(\d+)', found[1]) if found else []
  lost = sorted(set(map(int, numbers + _SILENT.findall(verdict))))
  if not lost and 'leader' in verdict and cluster.process != 0:
    lost = [0]  # process 0 runs the coordination service
  if not lost:
    return f'the processes lost each other: read the output of each; {again}'
  names = ' and '.join(map(name, lost))
  return f'{names} was lost (killed, failed, or out of reach; see its own output): {again}'


def follow_parent() -> None:
  """Makes this process end when its supervisor does, in case only the supervisor is killed."""
  parent = int(os.environ.pop(_CHILD))
  with contextlib.suppress(OSError, AttributeError):  # Linux only
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
  if os.getppid() != parent:
    os._exit(LOST_PEER)


def await_verdict(error: BaseException, peer_timeout: int) -> None:
  """Waits after an error of JAX's runtime for the abort that follows if another process was lost.

  It returns if no abort follows, and at once for errors of other kinds.

  Args:
    error: what was raised.
    peer_timeout: seconds without a heartbeat after which a process counts as lost.
  """
  if not isinstance(error, RuntimeError | ValueError) or not _RUNTIME_ERROR.match(str(error)):
    return
  text = ' '.join(str(error).split())[:200]
  print(f'the devices failed ({text}); checking the other processes', file=sys.stderr)
  threading.Event().wait(1.5 * peer_timeout)


def leave(code: int) -> None:
  """Ends this process after an error, without waiting long for other processes, which may be lost.

  The others get a few seconds: what failed here, such as a missing folder, is about to fail there too, and
  a process that still ran would report the loss of this one as the reason.

  Args:
    code: the exit code.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  shutdown = threading.Thread(target=jax.distributed.shutdown, daemon=True)
  shutdown.start()
  shutdown.join(_GRACE)
  os._exit(code)
