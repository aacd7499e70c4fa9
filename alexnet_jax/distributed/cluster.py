"""Finds the processes that train together, and which of them this process is.

JAX can detect SLURM, Kubernetes and Cloud TPUs itself. Only Cloud TPUs are left to it here, for these
reasons:

- On SLURM, JAX gives every process one GPU, also the only process of a node, which should use all of them.
- JAX misreads SLURM's lists of hosts with a suffix, such as `n[1-3]-ib`.
- On Kubernetes, JAX needs an extra package and access to the cluster's API.
- Incomplete settings would end in a timeout, where the functions below raise an error that names them.
"""

from collections.abc import Mapping
import dataclasses
import importlib.util
import os
import re

from alexnet_jax.errors import UserError

PORT = 8476  # the default port of the coordinator

_SLURM = ('SLURM_JOB_ID', 'SLURM_STEP_NODELIST', 'SLURM_NTASKS', 'SLURM_PROCID', 'SLURM_LOCALID')
_JOBSET = ('JOBSET_COORDINATOR', 'JOBSET_PROCESSES', 'JOB_COMPLETION_INDEX')


@dataclasses.dataclass(frozen=True)
class Cluster:
  """The processes that train together, and which of them this process is.

  Attributes:
    coordinator: `HOST:PORT` of process 0; empty on a Cloud TPU, where JAX finds it.
    processes: number of processes; 0 where JAX finds it.
    process: number of this process, from 0.
    local_devices: the accelerators of this machine that this process uses; None means all.
  """

  coordinator: str = ''
  processes: int = 0
  process: int = 0
  local_devices: tuple[int, ...] | None = None


def find(
  coordinator: str = '',
  processes: int | None = None,
  process: int | None = None,
  environment: Mapping[str, str] = os.environ,
) -> Cluster:
  """Finds the cluster from explicit arguments, or else from SLURM, a Kubernetes JobSet or a Cloud TPU.

  Args:
    coordinator: `HOST[:PORT]` of process 0.
    processes: number of processes.
    process: number of this process.
    environment: environment variables, among them those of SLURM and of launch/k8s/jobset.yaml.

  Raises:
    UserError: no cluster is found, only a part of the settings is given, or a setting is invalid.
  """
  flags = {'--coordinator': coordinator, '--num_processes': processes, '--process_id': process}
  given = {name: '' if value is None else str(value) for name, value in flags.items()}
  if _all_or_none(tuple(flags), given, 'give all three, or none to take them from the cluster'):
    cluster = Cluster(
      _with_port(coordinator), int(given['--num_processes']), int(given['--process_id'])
    )
  elif _all_or_none(_SLURM, environment, 'start with srun, as launch/slurm.sbatch does'):
    cluster = _from_slurm(environment)
  elif _all_or_none(_JOBSET[:2], environment, 'set them as launch/k8s/jobset.yaml does'):
    cluster = _from_jobset(environment)
  elif importlib.util.find_spec('libtpu'):
    return Cluster()
  else:
    raise UserError(
      '--distributed found neither SLURM nor a JobSet nor a Cloud TPU: give --coordinator=HOST:PORT '
      '--num_processes=N --process_id=I, or start with launch/local.sh N'
    )
  if not 0 <= cluster.process < cluster.processes:
    raise UserError(
      f'process {cluster.process} of {cluster.processes}: number the processes from 0 to N - 1'
    )
  return cluster


def _from_slurm(environment: Mapping[str, str]) -> Cluster:
  job, nodes, tasks, task, local = (environment[name] for name in _SLURM)
  # Jobs that share a host need different ports.
  port = PORT + _number('SLURM_JOB_ID', job) % 4096
  return Cluster(
    f'{_first_host(nodes)}:{port}',
    _number('SLURM_NTASKS', tasks),
    _number('SLURM_PROCID', task),
    _slurm_devices(environment, _number('SLURM_LOCALID', local)),
  )


def _slurm_devices(environment: Mapping[str, str], local_task: int) -> tuple[int, ...] | None:
  """Returns the GPUs of this task: one for each task of a node, or all (None) for the only task of a node."""
  tasks_per_node = environment.get(
    'SLURM_STEP_TASKS_PER_NODE', environment.get('SLURM_TASKS_PER_NODE', '1')
  )
  counts = set(re.findall(r'(\d+)(?:\(x\d+\))?', tasks_per_node))  # of `2(x3),1`
  if counts == {'1'}:
    return None
  if environment.get('SLURM_GPUS_PER_TASK', '1') != '1':
    raise UserError(
      'SLURM runs several tasks on a node with several GPUs each: start one task for each GPU, or one '
      'for each node'
    )
  visible = environment.get('CUDA_VISIBLE_DEVICES')
  if visible is None:
    return (local_task,)
  gpus, tasks = len(visible.split(',')), max(map(int, counts))
  if gpus > tasks:
    raise UserError(
      f'SLURM runs {tasks} tasks on a node with {gpus} GPUs (CUDA_VISIBLE_DEVICES={visible}), and each task '
      'would use one of them: start one task for each GPU, or one for each node'
    )
  # SLURM may already have bound one GPU to each task, which then sees only that one.
  return None if gpus == 1 else (local_task,)


def _from_jobset(environment: Mapping[str, str]) -> Cluster:
  _all_or_none(_JOBSET, environment, 'set completionMode: Indexed, as launch/k8s/jobset.yaml does')
  host, count, index = (environment[name] for name in _JOBSET)
  return Cluster(
    _with_port(host), _number('JOBSET_PROCESSES', count), _number('JOB_COMPLETION_INDEX', index)
  )


def _all_or_none(names: tuple[str, ...], environment: Mapping[str, str], remedy: str) -> bool:
  """Returns whether all variables are set; raises UserError where only some are."""
  missing = [name for name in names if not environment.get(name)]
  if missing and len(missing) < len(names):
    present = ', '.join(name for name in names if name not in missing)
    verb = 'is' if len(missing) == 1 else 'are'
    raise UserError(f'{present} set but {", ".join(missing)} {verb} not: {remedy}')
  return not missing


def _with_port(address: str) -> str:
  """Returns `HOST:PORT`, given `HOST[:PORT]`."""
  host, _, port = address.partition(':')
  if not host or not re.fullmatch(r'\d{0,5}', port) or int(port or PORT) > 65535:
    raise UserError(f'the coordinator {address!r} is not HOST:PORT: write one, as in node1:{PORT}')
  return f'{host}:{port or PORT}'


def _number(name: str, text: str) -> int:
  if not re.fullmatch(r'\d+', text):
    raise UserError(f'{name}={text!r}: must be a whole number, 0 or more')
  return int(text)


def _first_host(nodes: str) -> str:
  """Returns the first host of a SLURM list such as `a,b`, `node[001-015],other` or `node[3,7]`."""
  match = re.match(r'([^,\[]+)(?:\[(\d+)[\d,-]*\])?(?:,|$)', nodes)
  if not match:
    raise UserError(
      f'SLURM_STEP_NODELIST={nodes!r}: its first host is not clear; give --coordinator=HOST:PORT '
      '--num_processes=$SLURM_NTASKS --process_id=$SLURM_PROCID'
    )
  return match[1] + (match[2] or '')
