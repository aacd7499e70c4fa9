"""A process gets its rank from flags, SLURM or a Kubernetes JobSet; incomplete settings are errors."""

import pytest
from tiny import write_config

from alexnet_jax.cli import main as main_lib
from alexnet_jax.distributed import cluster
from alexnet_jax.distributed.cluster import Cluster
from alexnet_jax.errors import UserError

SLURM = {
  'SLURM_JOB_ID': '70001',
  'SLURM_STEP_NODELIST': 'gpu[007-009],other',
  'SLURM_NTASKS': '4',
  'SLURM_PROCID': '2',
  'SLURM_LOCALID': '0',
  'SLURM_STEP_TASKS_PER_NODE': '1(x4)',
}
JOBSET = {'JOBSET_COORDINATOR': 'a-0-0.a', 'JOBSET_PROCESSES': '3', 'JOB_COMPLETION_INDEX': '1'}
SLURM_PORT = 8476 + 70001 % 4096


@pytest.mark.parametrize(
  ('nodes', 'host'),
  [('n1', 'n1'), ('n1,n2', 'n1'), ('gpu[007-009],o', 'gpu007'), ('gpu[3,7-9]', 'gpu3')],
)
def test_slurm_gives_the_coordinator(nodes, host):
  found = cluster.find(environment=SLURM | {'SLURM_STEP_NODELIST': nodes})
  assert found == Cluster(f'{host}:{SLURM_PORT}', 4, 2, None)


@pytest.mark.parametrize(
  ('changes', 'devices'),
  [
    ({}, None),  # with one task per node, the task gets all accelerators of the node
    ({'SLURM_GPUS_PER_TASK': '8', 'CUDA_VISIBLE_DEVICES': '0,1,2,3,4,5,6,7'}, None),
    ({'SLURM_STEP_TASKS_PER_NODE': '2(x2)', 'SLURM_LOCALID': '1'}, (1,)),
    ({'SLURM_STEP_TASKS_PER_NODE': '3,1', 'SLURM_LOCALID': '2'}, (2,)),
    ({'SLURM_STEP_TASKS_PER_NODE': '4', 'SLURM_LOCALID': '3', 'CUDA_VISIBLE_DEVICES': '3'}, None),
    ({'SLURM_STEP_TASKS_PER_NODE': '2', 'SLURM_LOCALID': '1', 'CUDA_VISIBLE_DEVICES': '0,1'}, (1,)),
  ],
)
def test_slurm_gives_the_local_devices(changes, devices):
  assert cluster.find(environment=SLURM | changes).local_devices == devices


def test_a_jobset_and_flags_give_the_rank():
  assert cluster.find(environment=JOBSET) == Cluster('a-0-0.a:8476', 3, 1)
  assert cluster.find('h', 2, 1, environment=SLURM | JOBSET) == Cluster('h:8476', 2, 1)
  assert cluster.find('h:99', 1, 0, environment={}) == Cluster('h:99', 1, 0)


def without(environment, *names):
  return {name: value for name, value in environment.items() if name not in names}


@pytest.mark.parametrize(
  ('flags', 'environment', 'message'),
  [
    ((), {}, r'--coordinator=HOST:PORT .*launch/local.sh'),
    (('h', 2), {}, '--process_id is not: give all three'),
    (('', None, 1), {}, '--coordinator, --num_processes are not'),
    (('h', 2, 2), {}, 'process 2 of 2'),
    ((), without(SLURM, 'SLURM_STEP_NODELIST', 'SLURM_LOCALID'), 'SLURM_LOCALID are not: .*srun'),
    ((), SLURM | {'SLURM_NTASKS': ''}, 'SLURM_NTASKS is not: .*srun'),
    ((), SLURM | {'SLURM_PROCID': 'x'}, "SLURM_PROCID='x'"),
    ((), SLURM | {'SLURM_STEP_NODELIST': '[1-3]'}, 'first host is not clear'),
    ((), SLURM | {'SLURM_STEP_NODELIST': 'n[1-3]-ib'}, 'first host is not clear'),
    (
      (),
      SLURM | {'SLURM_GPUS_PER_TASK': '2', 'SLURM_STEP_TASKS_PER_NODE': '4(x2)'},
      'one task for each GPU',
    ),
    (
      (),
      SLURM | {'SLURM_STEP_TASKS_PER_NODE': '2(x2)', 'CUDA_VISIBLE_DEVICES': '0,1,2,3,4,5,6,7'},
      '2 tasks on a node with 8 GPUs .*: start one task for each GPU, or one for each node',
    ),
    (('h:abc', 2, 0), {}, 'not HOST:PORT'),
    (('h:99999999', 2, 0), {}, 'not HOST:PORT'),
    ((':80', 2, 0), {}, 'not HOST:PORT'),
    ((), without(JOBSET, 'JOB_COMPLETION_INDEX'), 'completionMode: Indexed'),
    ((), without(JOBSET, 'JOBSET_PROCESSES'), 'JOBSET_PROCESSES is not'),
    ((), JOBSET | {'JOB_COMPLETION_INDEX': '3'}, 'process 3 of 3'),
  ],
)
def test_incomplete_and_invalid_settings_are_refused(flags, environment, message):
  with pytest.raises(UserError, match=message):
    cluster.find(*flags, environment=environment)


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    (('--coordinator=h:1',), '--coordinator describes several processes: add --distributed'),
    (('--distributed', '--process_id=0'), 'give all three'),
    (('--distributed', '--num_processes=0'), 'num_processes'),
  ],
)
def test_invalid_flags_are_refused(tmp_path, capsys, args, message):
  config = write_config(tmp_path)
  assert main_lib.main([f'--config={config}', f'--workdir={tmp_path / "run"}', *args]) == 2
  out, err = capsys.readouterr()
  assert out == '' and message in err and len(err.splitlines()) == 1
