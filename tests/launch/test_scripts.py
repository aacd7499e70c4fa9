"""The launch scripts run in bash, with small stand-ins for main.py, nvidia-smi, gcloud and SLURM."""

import json
import os
from pathlib import Path
import shlex
import signal
import subprocess
import sys
import textwrap
import time

import pytest

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / 'launch'
TIMEOUT = 60  # seconds after which a script that hangs fails its test
LAST_LINE = 'the last line of process 0\n'

# This program stands in for main.py --distributed. It records how it was started, and ends as the variable
# ACTIONS determines for its process. The action 'run' waits for a signal, and ends after 30 seconds without
# one. Like main.py it then has a parent and a child: the parent forwards SIGTERM and leaves Ctrl-C to the
# child.
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
    unset = ('CUDA_VISIBLE_DEVICES', 'JAX_PLATFORMS')
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
    path, deadline = self.notes / name, time.monotonic() + TIMEOUT
    while not path.exists():
      assert time.monotonic() < deadline, f'{name} was never written'
      time.sleep(0.01)
    return json.loads(path.read_text())


@pytest.fixture
def stage(tmp_path):
  return Stage(tmp_path)


def actions(*each: int | str) -> dict[str, str]:
  return {'ACTIONS': json.dumps(each)}


@pytest.mark.parametrize('count', [[], ['0'], ['x'], ['-1'], ['1.5'], ['--config=a.py']])
def test_local_requires_a_number(stage, count):
  result = stage.run(LAUNCH / 'local.sh', *count)
  assert result.returncode == 2
  assert result.stderr.startswith('error: ')
  assert 'usage: bash launch/local.sh N' in result.stderr
  assert result.stderr.count('\n') == 1
  assert not list(stage.notes.iterdir())


def test_local_numbers_the_processes(stage):
  arguments = ['--config=configs/quickstart.py', '--workdir=runs/two words', "--config.x='$HOME'"]
  result = stage.run(LAUNCH / 'local.sh', '3', *arguments, **actions(0, 0, 0))
  assert result.returncode == 0, result.stderr
  assert result.stdout == 'the JSON of process 0\n'
  assert result.stderr == LAST_LINE
  processes = [stage.note(f'process{i}')['argv'] for i in range(3)]
  coordinator = processes[0][4]
  host, _, port = coordinator.partition('=')[2].partition(':')
  assert host == '127.0.0.1'
  assert 1024 <= int(port) < 65536
  assert processes == [
    [*arguments, '--distributed', coordinator, '--num_processes=3', f'--process_id={i}']
    for i in range(3)
  ]


@pytest.mark.parametrize(
  ('gpus', 'visible', 'expected', 'platforms'),
  [
    (2, None, ['0', '1'], None),
    (3, '2,GPU-5a', ['2', 'GPU-5a'], None),
    (4, '7', ['7', '7'], 'cpu'),  # with too few GPUs the variable is not changed
    (4, '', ['', ''], 'cpu'),
    (1, None, [None, None], 'cpu'),
    (0, None, [None, None], 'cpu'),
  ],
)
def test_local_gives_each_process_a_gpu_if_there_are_enough(
  stage, gpus, visible, expected, platforms
):
  lines = [f'GPU {i}: NVIDIA H100 80GB HBM3 (UUID: GPU-{i})' for i in range(gpus)]
  stage.program('nvidia-smi', '\n'.join(f'echo "{line}"' for line in lines) or 'exit 9')
  environment = {} if visible is None else {'CUDA_VISIBLE_DEVICES': visible}
  result = stage.run(LAUNCH / 'local.sh', '2', **actions(0, 0), **environment)
  assert result.returncode == 0, result.stderr
  processes = [stage.note(f'process{i}') for i in range(2)]
  assert [process['CUDA_VISIBLE_DEVICES'] for process in processes] == expected
  assert [process['JAX_PLATFORMS'] for process in processes] == [platforms] * 2


@pytest.mark.parametrize(
  ('each', 'expected'),
  [((0, 3), 0), ((3, 0), 3), ((2, 2), 2), ((75, 75), 75), ((130, 130), 130), (('killed', 3), 3)],
)
def test_local_exits_with_the_code_of_process_0(stage, each, expected):
  result = stage.run(LAUNCH / 'local.sh', '2', **actions(*each))
  assert result.returncode == expected
  killed = 'error: process 0 was killed by signal 9\n'
  assert result.stderr == LAST_LINE + (killed if each[0] == 'killed' else '')


def test_local_prints_nothing_after_the_last_line_of_process_0(stage):
  """Otherwise bash would print "Killed" below the line in which main.py names the lost process."""
  result = stage.run(LAUNCH / 'local.sh', '2', **actions(3, 'killed'))
  assert [result.returncode, result.stderr] == [3, LAST_LINE]


def test_local_waits_for_every_process(stage):
  stage.run(LAUNCH / 'local.sh', '2', **actions(0, 'late'))
  assert (stage.notes / 'late').exists()


@pytest.mark.parametrize(
  ('sent', 'received', 'code'),
  [('SIGTERM', 'SIGTERM', 75), ('SIGHUP', 'SIGTERM', 75), ('SIGINT', 'SIGINT', 130)],
)
def test_local_forwards_signals_and_leaves_no_process(stage, sent, received, code):
  with stage.start(LAUNCH / 'local.sh', '2', **actions('run', 'run')) as script:
    pids = [pid for i in range(2) for pid in stage.note(f'process{i}')['pids']]
    for _ in range(3):  # signals may be repeated while the checkpoints are written
      script.send_signal(signal.Signals[sent])
      assert [stage.note(f'signal{i}') for i in range(2)] == [received] * 2
      time.sleep(0.1)
    assert script.wait(TIMEOUT) == code
  for pid in pids:
    with pytest.raises(ProcessLookupError):
      os.kill(pid, 0)


def test_local_leaves_no_process_if_it_is_stopped_while_it_starts(stage):
  stage.program(
    'python',
    """
    [ "$1" = main.py ] || { echo 12345; exit; }  # the port
    echo $$ > "$NOTES/${@: -1}"
    [ "${@: -1}" != --process_id=0 ] || kill -TERM $PPID
    exec sleep 30
    """,
  )
  result = stage.run(LAUNCH / 'local.sh', '24')
  assert result.returncode == 3
  pids = [int(pid) for note in stage.notes.iterdir() if (pid := note.read_text())]
  for pid in pids:
    with pytest.raises(ProcessLookupError):
      os.kill(pid, 0)


@pytest.mark.parametrize(('code', 'expected'), [(0, 0), (3, 3), (75, 75), (137, 3)])
def test_slurm_requeues_a_preempted_run(stage, tmp_path, code, expected):
  # SLURM runs a copy of the script with another name.
  spool = tmp_path / 'job00007' / 'slurm_script'
  spool.parent.mkdir()
  spool.write_text((LAUNCH / 'slurm.sbatch').read_text())
  stage.program('srun', f'printf "%s\\n" "$@" > "$NOTES/srun"\nexit {code}')
  stage.program('scontrol', 'printf "%s\\n" "$@" > "$NOTES/scontrol"')
  environment = {
    'SLURM_SUBMIT_DIR': str(ROOT),
    'SLURM_JOB_ID': '7',
    'SLURM_CPUS_PER_TASK': '16',
  }
  result = stage.run(spool, '--config=a b.py', '--workdir=runs/x', **environment)
  assert result.returncode == expected, result.stderr
  assert (stage.notes / 'srun').read_text().splitlines() == [
    *('--cpus-per-task=16', '--kill-on-bad-exit=0', 'python', 'main.py'),
    *('--config=a b.py', '--workdir=runs/x', '--distributed'),
  ]
  requeued = stage.notes / 'scontrol'
  assert requeued.exists() == (code == 75)
  assert code != 75 or requeued.read_text().splitlines() == ['requeue', '7']


@pytest.mark.parametrize(
  ('mode', 'variables', 'added'),
  [
    ('prepare', {'SLURM_ARRAY_TASK_ID': '2', 'SLURM_ARRAY_TASK_COUNT': '8'}, '--shard=2/8'),
    ('train', {'SLURM_ARRAY_TASK_ID': '2', 'SLURM_ARRAY_TASK_COUNT': '8'}, '--distributed'),
    ('train', {}, '--distributed'),
  ],
)
def test_a_job_array_prepares_parts_of_a_store(stage, mode, variables, added):
  stage.program('srun', 'printf "%s\\n" "$@" > "$NOTES/srun"')
  environment = {'SLURM_SUBMIT_DIR': str(ROOT), 'SLURM_JOB_ID': '7', **variables}
  result = stage.run(LAUNCH / 'slurm.sbatch', f'--mode={mode}', '--output=store', **environment)
  assert result.returncode == 0, result.stderr
  last = (stage.notes / 'srun').read_text().splitlines()[-3:]
  assert last == [f'--mode={mode}', '--output=store', added]


def test_slurm_must_be_submitted_from_the_checkout(stage, tmp_path):
  result = stage.run(LAUNCH / 'slurm.sbatch', SLURM_SUBMIT_DIR=str(tmp_path), SLURM_JOB_ID='7')
  assert result.returncode == 2
  assert 'is not the checkout' in result.stderr


# These programs stand in for git and for gcloud. The only worker is a folder on this machine.
GIT = f"""
  [ "$1" != status ] || exit 0
  tar -czf "$4" -C {shlex.quote(str(ROOT))} launch main.py requirements.txt constraints.txt
"""
GCLOUD = """
  if [ "$4" = scp ]; then
    cp "$5" "$HOME/${6#*:}"
  else
    for arg in "$@"; do [[ $arg != --command=* ]] || command=${arg#--command=}; done
    cd "$HOME" && exec bash -c "$command"
  fi
"""


def test_tpu_vm_runs_main_on_the_worker_with_all_arguments(stage):
  stage.program('git', GIT)
  stage.program('gcloud', GCLOUD)
  stage.installed('requirements-tpu.txt', 'jax[tpu]\n')
  awkward = [
    '--config=configs/alexnet.py',
    '--workdir=/mnt/two words',
    '--config.x=\'$HOME\' `ls` "*"',
  ]
  result = stage.run(LAUNCH / 'tpu_vm.sh', 'my-tpu', 'us-central2-b', *awkward)
  assert result.returncode == 0, result.stderr
  assert stage.note('process0')['argv'] == [*awkward, '--distributed']
  assert result.stdout == 'the JSON of process 0\n'
  assert (stage.home / 'alexnet_jax' / 'main.py').read_text() == (ROOT / 'main.py').read_text()


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (['my-tpu', 'us-central2-b'], 'usage: bash launch/tpu_vm.sh NAME ZONE'),
    (['my-tpu', 'us-central2-b', '--workdir=gs://bucket/run'], 'gs:// is not supported'),
  ],
)
def test_tpu_vm_refuses_invalid_arguments_before_it_uses_the_cloud(stage, arguments, words):
  stage.program('gcloud', 'exit 97')
  result = stage.run(LAUNCH / 'tpu_vm.sh', *arguments)
  assert result.returncode == 2
  assert words in result.stderr
  assert result.stderr.count('\n') == 1
