"""The launch scripts run in bash, with small stand-ins for main.py, nvidia-smi, gcloud and SLURM."""

import json
import os
import shlex
import signal
import time

import pytest
from tiny import ROOT

LAUNCH = ROOT / 'launch'
TIMEOUT = 60  # seconds after which a script that hangs fails its test
LAST_LINE = 'the last line of process 0\n'


def actions(*each: int | str) -> dict[str, str]:
  return {'ACTIONS': json.dumps(each)}


@pytest.mark.parametrize('code', [0, 3])
def test_quickstart_evaluates_a_completed_training(stage, code):
  """The workdir is relative to the folder of the caller."""
  result = stage.run(LAUNCH / 'quickstart.sh', 'two words', **actions(code))
  workdir = f'--workdir={stage.home / "two words"}'
  evaluate = ['--mode=eval', workdir, '--checkpoint=latest']
  last = ['--config=configs/quickstart.py', workdir] if code else evaluate
  assert (result.returncode, stage.note('process0')['argv']) == (code, last)
  assert result.stdout == 'the JSON of process 0\n' * (1 if code else 2)


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
  [((0, 3), 0), ((3, 0), 3), ((130, 130), 130), (('killed', 3), 3), ((3, 'killed'), 3)],
)
def test_local_exits_with_the_code_of_process_0(stage, each, expected):
  """bash prints no "Killed" below the line in which main.py names a lost process."""
  result = stage.run(LAUNCH / 'local.sh', '2', **actions(*each))
  assert result.returncode == expected
  killed = 'error: process 0 was killed by signal 9\n'
  assert result.stderr == LAST_LINE + (killed if each[0] == 'killed' else '')


def test_local_waits_for_every_process(stage):
  with stage.start(LAUNCH / 'local.sh', '2', **actions(0, 'late')) as script:
    assert script.wait(TIMEOUT) == 0
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
    exec sleep 300
    """,
  )
  result = stage.run(LAUNCH / 'local.sh', '24')
  assert result.returncode == 3
  pids = [int(pid) for note in stage.notes.iterdir() if (pid := note.read_text())]
  assert pids
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
    (
      'prepare',
      {'SLURM_ARRAY_TASK_ID': '3', 'SLURM_ARRAY_TASK_COUNT': '2', 'SHARDS': '8'},
      '--shard=3/8',
    ),
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
  assert LAST_LINE in result.stderr
  assert (stage.home / 'alexnet_jax' / 'main.py').read_text() == (ROOT / 'main.py').read_text()


@pytest.fixture
def tpu(stage):
  """A stage with a worker, whose main.py runs until a signal; the file `starts` counts its starts."""
  stage.program('git', GIT)
  stage.program('gcloud', GCLOUD)
  stage.installed('requirements-tpu.txt', 'jax[tpu]\n')
  python = (stage.bin / 'python').read_text()
  count = '[ "$1" != main.py ] || echo >> "$NOTES/starts"'
  stage.program('python', python.replace('\n', f'\n{count}\n', 1))
  stage.environment |= actions('run')
  return stage


TPU_VM = (LAUNCH / 'tpu_vm.sh', 'my-tpu', 'us-central2-b', '--workdir=w')


def test_tpu_vm_only_follows_a_run_that_goes_on_after_a_lost_connection(tpu):
  with tpu.start(*TPU_VM) as lost:
    tpu.note('process0')
    lost.kill()  # leaving the block closes its pipes
  with tpu.start(*TPU_VM) as again:
    while (line := again.stderr.readline()) != LAST_LINE:
      assert line
    os.kill(int((tpu.home / 'alexnet_jax_run' / 'pid').read_text()), signal.SIGTERM)
    assert again.wait(TIMEOUT) == 75
    assert again.stdout.read() == 'the JSON of process 0\n'
  assert tpu.note('signal0') == 'SIGTERM'
  assert (tpu.notes / 'starts').read_text() == '\n'


def test_tpu_vm_starts_once_if_gcloud_repeats_the_command(tpu):
  thrice = """cd "$HOME"
    bash -c "$command" >/dev/null 2>&1 & # this connection is lost
    until [ -e "$NOTES/process0" ]; do sleep 0.1; done
    kill -KILL $!
    bash -c "$command" >/dev/null # this one is lost after the end of the run
  """
  tpu.program('gcloud', GCLOUD.replace('cd "$HOME" &&', thrice))
  result = tpu.run(*TPU_VM, **actions('late'))
  assert (result.returncode, result.stdout) == (0, 'the JSON of process 0\n')
  assert (tpu.notes / 'starts').read_text() == '\n'
  assert tpu.run(*TPU_VM, **actions(3)).returncode == 3  # another start begins another run


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
