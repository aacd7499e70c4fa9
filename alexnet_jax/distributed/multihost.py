"""Several processes that train together: how they find each other, and what they must agree on.

`jax.distributed` connects them; this module tells it where. With one process every function here does the
plain thing, so that callers need not ask how many there are.
"""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import os
import re
import socket
import sys
from typing import Any

from absl import logging
import jax
from jax.experimental import multihost_utils
import numpy as np

from alexnet_jax.errors import UserError

PORT = 8476  # of the coordinator, where its address names none
# Begins the line on stderr that tells the supervisor of all processes.
HOSTS = 'alexnet_jax hosts: '
START_TIMEOUT = 300  # seconds to wait for the other processes to come up
_HOST_BYTES = 64
_TEXT_BYTES = 1000

_SLURM = ('SLURM_JOB_ID', 'SLURM_STEP_NODELIST', 'SLURM_NTASKS', 'SLURM_PROCID', 'SLURM_LOCALID')
_JOBSET = ('JOBSET_COORDINATOR', 'JOBSET_PROCESSES', 'JOB_COMPLETION_INDEX')


@dataclasses.dataclass(frozen=True)
class Cluster:
  """Where this process stands among those that train together.

  Attributes:
    coordinator: `HOST:PORT` of process 0; empty where JAX finds all by itself (Cloud TPU).
    processes: how many there are; 0 where JAX finds out.
    process: number of this one.
    local_devices: which of this machine's accelerators are this process's; None for all.
  """

  coordinator: str = ''
  processes: int = 0
  process: int = 0
  local_devices: tuple[int, ...] | None = None


def _with_port(address: str) -> str:
  """`HOST:PORT` of `HOST[:PORT]`."""
  host, _, port = address.partition(':')
  if not host or not re.fullmatch(r'\d{0,5}', port) or int(port or PORT) > 65535:
    raise UserError(f'the coordinator {address!r} is not HOST:PORT: write one, as in node1:{PORT}')
  return f'{host}:{port or PORT}'


def _number(name: str, text: str) -> int:
  if not re.fullmatch(r'\d+', text):
    raise UserError(f'{name}={text!r}: must be a whole number, 0 or more')
  return int(text)


def _all_or_none(names: tuple[str, ...], environment: Mapping[str, str], remedy: str) -> bool:
  """Whether all variables are set; raises UserError where only some are."""
  absent = [name for name in names if not environment.get(name)]
  if absent and len(absent) < len(names):
    there = ', '.join(name for name in names if name not in absent)
    verb = 'is' if len(absent) == 1 else 'are'
    raise UserError(f'{there} set but {", ".join(absent)} {verb} not: {remedy}')
  return not absent


def _first_host(nodes: str) -> str:
  """The first host of SLURM's list: of `a,b`, `node[001-015],other` or `node[3,7]`."""
  match = re.match(r'([^,\[]+)(?:\[(\d+)[\d,-]*\])?(?:,|$)', nodes)
  if not match:
    raise UserError(
      f'SLURM_STEP_NODELIST={nodes!r}: its first host is not clear; give --coordinator=HOST:PORT '
      '--num_processes=$SLURM_NTASKS --process_id=$SLURM_PROCID'
    )
  return match[1] + (match[2] or '')


def _from_slurm(environment: Mapping[str, str]) -> Cluster:
  job, nodes, tasks, task, local = (environment[name] for name in _SLURM)
  # Jobs that share a host must not share a port.
  port = PORT + _number('SLURM_JOB_ID', job) % 4096
  a_node = environment.get(
    'SLURM_STEP_TASKS_PER_NODE', environment.get('SLURM_TASKS_PER_NODE', '1')
  )
  alone = set(re.findall(r'(\d+)(?:\(x\d+\))?', a_node)) == {'1'}
  if not alone and environment.get('SLURM_GPUS_PER_TASK', '1') != '1':
    raise UserError(
      'several tasks a node, of several GPUs each: start one task a GPU, or one a node'
    )
  # SLURM may have given each task a GPU of its own; without that, each takes its own of all.
  bound = len(environment.get('CUDA_VISIBLE_DEVICES', '').split(',')) == 1
  bound = bound and 'CUDA_VISIBLE_DEVICES' in environment
  return Cluster(
    f'{_first_host(nodes)}:{port}',
    _number('SLURM_NTASKS', tasks),
    _number('SLURM_PROCID', task),
    None if alone or bound else (_number('SLURM_LOCALID', local),),
  )


def find(
  coordinator: str = '',
  processes: int | None = None,
  process: int | None = None,
  environment: Mapping[str, str] = os.environ,
) -> Cluster:
  """Finds the cluster: from explicit arguments, else SLURM, a Kubernetes JobSet or a Cloud TPU.

  Args:
    coordinator: `HOST[:PORT]` of process 0.
    processes: how many there are.
    process: number of this one.
    environment: where the variables of SLURM and of launch/k8s/jobset.yaml are looked for.

  Raises:
    UserError: nothing is found, only half of what is needed, or numbers that cannot be.
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
    _all_or_none(
      _JOBSET, environment, 'set completionMode: Indexed, as launch/k8s/jobset.yaml does'
    )
    host, count, index = (environment[name] for name in _JOBSET)
    cluster = Cluster(
      _with_port(host), _number('JOBSET_PROCESSES', count), _number('JOB_COMPLETION_INDEX', index)
    )
  elif importlib.util.find_spec('libtpu'):
    return Cluster()
  else:
    raise UserError(
      '--distributed: neither SLURM nor a JobSet nor a Cloud TPU is here: give --coordinator=HOST:PORT '
      '--num_processes=N --process_id=I, or start with launch/local.sh N'
    )
  if not 0 <= cluster.process < cluster.processes:
    raise UserError(
      f'process {cluster.process} of {cluster.processes}: number the processes from 0 to N - 1'
    )
  return cluster


def join(cluster: Cluster, peer_timeout: int, stops_at_a_step: bool) -> None:
  """Connects this process with the others; to be called before JAX is asked for a device.

  Args:
    cluster: from `find`.
    peer_timeout: seconds without a sign of life after which a process counts as lost.
    stops_at_a_step: whether SIGTERM is left to `preemption`; else it ends the process.

  Raises:
    UserError: the others did not come, or have another number of devices.
  """
  jax.config.update('jax_enable_preemption_service', stops_at_a_step)
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  where: dict[str, Any] = {}
  if cluster.coordinator:
    where = {
      'coordinator_address': cluster.coordinator,
      'num_processes': cluster.processes,
      'process_id': cluster.process,
      'local_device_ids': cluster.local_devices,
      'cluster_detection_method': 'deactivate',
    }
  try:
    jax.distributed.initialize(
      **where, initialization_timeout=START_TIMEOUT, heartbeat_timeout_seconds=peer_timeout
    )
    hosts = _hosts()
  except (RuntimeError, ValueError) as error:
    remedy = (
      f'start all of them within {START_TIMEOUT} s, with as many devices each, and let them reach '
      f'{cluster.coordinator}'
    )
    if not cluster.coordinator:
      remedy = 'no Cloud TPU was found; elsewhere give --coordinator, --num_processes, --process_id'
    text = ' '.join(str(error).split())[:200]
    raise UserError(f'the processes did not find each other ({text}): {remedy}') from None
  print(HOSTS + json.dumps([jax.process_index(), hosts]), file=sys.stderr, flush=True)
  if is_primary():
    logging.info('%d process(es), on %s', len(hosts), ', '.join(dict.fromkeys(hosts)))


def _hosts() -> list[str]:
  name = socket.gethostname().encode()[:_HOST_BYTES].ljust(_HOST_BYTES, b'\0')
  rows = multihost_utils.process_allgather(np.frombuffer(name, np.uint8))
  return [bytes(row).rstrip(b'\0').decode(errors='replace') for row in np.asarray(rows)]


def is_primary() -> bool:
  """Whether this is the one process that writes logs and prints results."""
  return jax.process_index() == 0


def share() -> tuple[int, int]:
  """(i, n): this is process i of n."""
  return jax.process_index(), jax.process_count()


def same_everywhere(text: str) -> bool:
  """Whether all processes call this with the same text."""
  if jax.process_count() == 1:
    return True
  digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
  rows = np.asarray(multihost_utils.process_allgather(digest))
  return bool((rows == rows[0]).all())


def from_primary(number: int) -> int:
  """The number that process 0 calls this with, on every process."""
  if jax.process_count() == 1:
    return number
  return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def text_from_primary(text: str) -> str:
  """The text (at most 1,000 bytes of it) that process 0 calls this with, on every process."""
  if jax.process_count() == 1:
    return text
  row = np.frombuffer(text.encode()[:_TEXT_BYTES].ljust(_TEXT_BYTES, b'\0'), np.uint8)
  row = np.asarray(multihost_utils.broadcast_one_to_all(row))
  return bytes(row).rstrip(b'\0').decode(errors='replace')


@contextlib.contextmanager
def primary_first(name: str) -> Iterator[None]:
  """Process 0 does what follows before the others, who then find what it made or downloaded."""
  if not is_primary():
    wait_for_all(name)
  try:
    yield
  finally:  # after an error too, which the others are about to meet themselves
    if is_primary():
      wait_for_all(name)


def add_up(arrays: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
  """Sums of arrays over all processes, exact to the bit: JAX would round float64 to float32.

  Args:
    arrays: a named tuple of float64 arrays, of the same shapes everywhere.
  """
  if jax.process_count() == 1:
    return arrays

  def total(array):
    bits = multihost_utils.process_allgather(np.ascontiguousarray(array).view(np.uint32))
    return np.asarray(bits).view(np.float64).sum(0)

  return type(arrays)(*(total(np.atleast_1d(a)).reshape(np.shape(a)) for a in arrays))


def wait_for_all(name: str) -> None:
  """Returns when every process has come to the point called `name`."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)
