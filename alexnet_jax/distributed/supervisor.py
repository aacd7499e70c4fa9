"""The parent of each process of several: it turns what `jax.distributed` does about a lost peer into words.

When a process is lost, JAX aborts the others from C++, with a stack trace. Here every one of them is the
child of a parent, which passes signals down and the child's output up, and says at the end which process
was lost, with an exit code that schedulers understand.
"""

import contextlib
import ctypes
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading

import jax

from alexnet_jax.distributed.multihost import HOSTS, START_TIMEOUT, Cluster

LOST_PEER = 3
_CHILD = 'ALEXNET_JAX_SUPERVISED_BY'  # holds the parent's process id
_GRACE = 5  # seconds that a failing process leaves the others to fail for the same reason

# What C++ says when the processes lose each other; everything after it is about nothing else.
_VERDICT = re.compile(r'[EF]\d{4} .*(?:coordination_service|preemption_|client\.h)')
_UNHEALTHY = re.compile(r'stopped sending heartbeats\)?:?([^.]*)')
_SILENT = re.compile(r'Task \D*(\d+) heartbeat timeout')
_RUNTIME_ERROR = re.compile(r'[A-Z_]+: ')  # how messages of JAX's runtime begin, as UNAVAILABLE:


def is_child() -> bool:
  """Whether a supervisor started this process."""
  return _CHILD in os.environ


def supervise(cluster: Cluster) -> int:
  """Runs this very command line as a child and returns the exit code to end with.

  That is the child's own, or 3 with a line that says which process was lost.
  """
  child = subprocess.Popen(
    [sys.executable, *sys.orig_argv[1:]],
    env=os.environ | {_CHILD: str(os.getpid())},
    stderr=subprocess.PIPE,
    text=True,
    errors='replace',
  )
  signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number))
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the child too
  process, hosts, verdict = cluster.process, [], []
  for line in child.stderr or ():
    if line.startswith(HOSTS):
      process, hosts = json.loads(line.removeprefix(HOSTS))
    elif line.startswith('[Gloo]'):
      continue  # it counts its connections aloud
    elif verdict or _VERDICT.match(line):
      verdict.append(line)
    else:
      sys.stderr.write(line)
      sys.stderr.flush()
  code = child.wait()
  if code >= 0:
    sys.stderr.writelines(verdict)
    return code
  if hosts:  # what JAX found counts: on a Cloud TPU nobody else knows
    cluster = dataclasses.replace(cluster, process=process, processes=len(hosts))
  print(f'error: {_what_happened(cluster, code, "".join(verdict), hosts)}', file=sys.stderr)
  return LOST_PEER


def _what_happened(cluster: Cluster, code: int, verdict: str, hosts: list[str]) -> str:
  """The last line: which process was lost."""

  def name(process: int) -> str:
    host = f' (on {hosts[process]})' if process < len(hosts) else ''
    return f'process {process} of {cluster.processes}{host}'

  again = 'run the same command again; training resumes from its newest checkpoint'
  if not verdict:
    why = signal.Signals(-code).name
    hint = ', often for want of memory' if why == 'SIGKILL' else ''
    return f'{name(cluster.process)} was ended by {why}{hint}: {again}'
  if not hosts:
    return (
      f'{name(cluster.process)} did not meet the others at {cluster.coordinator}: start all of them '
      f'within {START_TIMEOUT} s of each other, and let them reach that address'
    )
  found = _UNHEALTHY.search(verdict)
  numbers = re.findall(r'(?:task:|\s)(\d+)', found[1]) if found else []
  lost = sorted(set(map(int, numbers + _SILENT.findall(verdict))))
  if not lost and 'leader' in verdict and cluster.process != 0:
    lost = [0]  # it runs the service that all others talk to
  if not lost:
    return f'the processes lost each other: look at the output of each; {again}'
  names = ' and '.join(map(name, lost))
  return f'{names} was lost (killed, failed, or out of reach; see its own output): {again}'


def follow_parent() -> None:
  """Lets this process end with its parent, which alone a scheduler or a user may have killed."""
  parent = int(os.environ.pop(_CHILD))
  with contextlib.suppress(OSError, AttributeError):  # Linux only
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
  if os.getppid() != parent:
    os._exit(LOST_PEER)


def await_verdict(error: BaseException, peer_timeout: int) -> None:
  """Waits, after an error of JAX's runtime, for the abort that follows if a peer was lost.

  Returns where none comes, and at once for errors of another kind.
  """
  if not isinstance(error, RuntimeError | ValueError) or not _RUNTIME_ERROR.match(str(error)):
    return
  text = ' '.join(str(error).split())[:200]
  print(f'the devices failed ({text}); asking after the other processes', file=sys.stderr)
  threading.Event().wait(1.5 * peer_timeout)


def leave(code: int) -> None:
  """Ends a failed process without waiting long for others that may be lost.

  They get a moment to come too: what failed here, such as a missing folder, is about to fail there, and
  whoever is left would take this one's going for the reason.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  goodbye = threading.Thread(target=jax.distributed.shutdown, daemon=True)
  goodbye.start()
  goodbye.join(_GRACE)
  os._exit(code)
