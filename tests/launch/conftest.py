"""A folder in which the launch scripts run with a small stand-in for main.py."""

import json
import os
from pathlib import Path
import shlex
import subprocess
import sys
import textwrap

import pytest
from tiny import ROOT, until

TIMEOUT = 60  # seconds after which a script that hangs fails its test

# This program stands in for main.py --distributed. It records how it was started, and ends as the variable
# ACTIONS determines for its process. The action 'run' waits for a signal, and ends after 30 seconds without
# one. Like main.py it then has a parent, which forwards SIGTERM and leaves Ctrl-C to its child.
MAIN = """
  import json, os, sys, time
  from signal import SIG_BLOCK, SIGCHLD, SIGINT, SIGKILL, SIGTERM
  from signal import Signals, pthread_sigmask, sigtimedwait, sigwait

  def note(name, what):
    path = os.path.join(os.environ['NOTES'], name)
    with open(path + '.part', 'w') as file:
      json.dump(what, file)
    os.rename(path + '.part', path)

  argv = sys.argv[1:]
  process = next((arg.split('=')[1] for arg in argv if arg.startswith('--process_id=')), '0')
  action = json.loads(os.environ.get('ACTIONS', '[0]'))[int(process)]
  if action == 'run':
    pthread_sigmask(SIG_BLOCK, {SIGCHLD, SIGINT, SIGTERM})
    child = os.fork()
    while child:
      if sigwait({SIGCHLD, SIGTERM}) == SIGCHLD:
        sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
      os.kill(child, SIGTERM)

  environment = {name: os.environ.get(name) for name in ('CUDA_VISIBLE_DEVICES', 'JAX_PLATFORMS')}
  note('process' + process, {'argv': argv, 'pids': [os.getppid(), os.getpid()], **environment})
  if process == '0':
    print('the JSON of process 0')
    print('the last line of process 0', file=sys.stderr)
    sys.stdout.flush()
  if action == 'run':
    received = sigtimedwait({SIGINT, SIGTERM}, 30)
    if not received:
      sys.exit(99)
    note('signal' + process, Signals(received.si_signo).name)
    time.sleep(0.4)  # a checkpoint
    action = {SIGINT: 130, SIGTERM: 75}[received.si_signo]
  elif action == 'killed':
    os.kill(os.getpid(), SIGKILL)
  elif action == 'late':
    time.sleep(0.3)
    note('late', True)
    action = 0
  sys.exit(action)
"""


class Stage:
  """A virtual environment with all packages, and stand-in programs that come first in PATH."""

  def __init__(self, folder: Path):
    self.bin, self.notes, self.home = folder / 'venv' / 'bin', folder / 'notes', folder / 'home'
    for path in (self.bin, self.notes, self.home):
      path.mkdir(parents=True)
    self.installed('requirements.txt')
    (folder / 'main.py').write_text(textwrap.dedent(MAIN))
    self.program(
      'python',
      f"""
      [ "$1" != -m ] || exit 99  # pip must not run
      [ "$1" != main.py ] || {{ shift; set -- {shlex.quote(str(folder / 'main.py'))} "$@"; }}
      exec {shlex.quote(sys.executable)} "$@"
      """,
    )
    self.program('nvidia-smi', 'exit 9')
    unset = ('CONSTRAINTS', 'CUDA_VISIBLE_DEVICES', 'JAX_PLATFORMS')
    self.environment = {name: os.environ[name] for name in os.environ if name not in unset}
    self.environment |= {
      'PATH': f'{self.bin}{os.pathsep}{os.environ["PATH"]}',
      'VIRTUAL_ENV': str(folder / 'venv'),
      'NOTES': str(self.notes),
      'HOME': str(self.home),
    }

  def installed(self, name: str, text: str | None = None) -> None:
    """Writes the copy by which setup.sh recognises that a requirements file is installed."""
    text = (ROOT / name).read_text() if text is None else text
    constraints = (ROOT / 'constraints.txt').read_text()
    (self.bin.parent / f'.alexnet_jax_{name}').write_text(constraints + text)

  def program(self, name: str, body: str) -> None:
    path = self.bin / name
    path.write_text(f'#!/usr/bin/env bash\n{textwrap.dedent(body)}')
    path.chmod(0o755)

  def start(self, script: Path, *args: str, **environment: str) -> subprocess.Popen:
    # The default signal handlers are restored, because bash cannot trap a signal that its parent ignores.
    reset = ['env', '--default-signal=INT,HUP']
    return subprocess.Popen(
      [*reset, 'bash', str(script), *args],
      cwd=self.home,
      env=self.environment | environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def run(self, script: Path, *args: str, **environment: str) -> subprocess.CompletedProcess:
    with self.start(script, *args, **environment) as process:
      try:
        stdout, stderr = process.communicate(timeout=TIMEOUT)
      except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

  def note(self, name: str):
    """Waits for the record that a stand-in writes, and returns it."""
    until((self.notes / name).exists, TIMEOUT)
    return json.loads((self.notes / name).read_text())


@pytest.fixture
def stage(tmp_path):
  return Stage(tmp_path)
