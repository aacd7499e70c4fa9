"""Several processes that train together: how they connect, and what they communicate outside of the steps.

`jax.distributed` connects them, at the addresses that `alexnet_jax.distributed.cluster` finds. With one
process every function here returns at once, so callers need not ask how many processes there are.
"""

from collections.abc import Iterator
import contextlib
import hashlib
import json
import socket
import sys
from typing import Any

from absl import logging
import jax
from jax.experimental import multihost_utils
import numpy as np

from alexnet_jax.distributed.cluster import Cluster
from alexnet_jax.errors import UserError

# This prefix marks the line on stderr from which the supervisor reads the hosts of all processes.
HOSTS = 'alexnet_jax hosts: '
START_TIMEOUT = 300  # seconds to wait for the other processes to start
# Seconds that a process waits at its end for the others. Process 0 may work alone for long, for example on
# the ridge regression of `config.eval.baseline`. Lost processes are noticed by their heartbeats.
_END_TIMEOUT = 24 * 3600
_HOST_BYTES = 64
_TEXT_BYTES = 1000


def join(cluster: Cluster, peer_timeout: int, stops_at_a_step: bool) -> None:
  """Connects this process with the others. Call it before anything asks JAX for a device.

  Args:
    cluster: from `cluster.find`.
    peer_timeout: seconds without a heartbeat after which a process counts as lost.
    stops_at_a_step: whether SIGTERM lets all processes stop at the same step (see `training.preemption`);
      otherwise it ends this process.

  Raises:
    UserError: the other processes did not start in time, or have another number of devices.
  """
  jax.config.update('jax_enable_preemption_service', stops_at_a_step)
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  address: dict[str, Any] = {}  # on a Cloud TPU JAX finds it
  if cluster.coordinator:
    address = {
      'coordinator_address': cluster.coordinator,
      'num_processes': cluster.processes,
      'process_id': cluster.process,
      'local_device_ids': cluster.local_devices,
      'cluster_detection_method': 'deactivate',
    }
  try:
    jax.distributed.initialize(
      **address,
      initialization_timeout=START_TIMEOUT,
      heartbeat_timeout_seconds=peer_timeout,
      shutdown_timeout_seconds=_END_TIMEOUT,
    )
    hosts = _hosts()
  except (RuntimeError, ValueError) as error:
    remedy = (
      f'start all of them within {START_TIMEOUT} s, with as many devices each, and let them reach '
      f'{cluster.coordinator}'
    )
    if not cluster.coordinator:
      remedy = 'JAX found no Cloud TPU; elsewhere give --coordinator, --num_processes, --process_id'
    text = ' '.join(str(error).split())[:200]
    raise UserError(f'the processes did not find each other ({text}): {remedy}') from None
  print(HOSTS + json.dumps([jax.process_index(), hosts]), file=sys.stderr, flush=True)
  if is_primary():
    logging.info('%d process(es), on %s', len(hosts), ', '.join(dict.fromkeys(hosts)))


def _hosts() -> list[str]:
  """Returns the host names of all processes, in the order of their numbers."""
  name = socket.gethostname().encode()[:_HOST_BYTES].ljust(_HOST_BYTES, b'\0')
  rows = multihost_utils.process_allgather(np.frombuffer(name, np.uint8))
  return [bytes(row).rstrip(b'\0').decode(errors='replace') for row in np.asarray(rows)]


def is_primary() -> bool:
  """Returns whether this is process 0, the only one that writes logs and prints results."""
  return jax.process_index() == 0


def share() -> tuple[int, int]:
  """Returns (i, n): this is process i of n."""
  return jax.process_index(), jax.process_count()


def same_everywhere(text: str) -> bool:
  """Returns whether all processes call this function with the same text."""
  if jax.process_count() == 1:
    return True
  digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
  rows = np.asarray(multihost_utils.process_allgather(digest))
  return bool((rows == rows[0]).all())


def from_primary(number: int) -> int:
  """Returns, on every process, the number that process 0 passes."""
  if jax.process_count() == 1:
    return number
  return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def text_from_primary(text: str) -> str:
  """Returns, on every process, the text that process 0 passes; at most its first 1,000 bytes."""
  if jax.process_count() == 1:
    return text
  row = np.frombuffer(text.encode()[:_TEXT_BYTES].ljust(_TEXT_BYTES, b'\0'), np.uint8)
  row = np.asarray(multihost_utils.broadcast_one_to_all(row))
  return bytes(row).rstrip(b'\0').decode(errors='replace')


@contextlib.contextmanager
def primary_first(name: str) -> Iterator[None]:
  """Runs the body of a `with` statement on process 0 first, then on the others.

  The other processes then find what process 0 has written or downloaded.

  Args:
    name: names the barrier; the same on every process.
  """
  if not is_primary():
    wait_for_all(name)
  try:
    yield
  finally:  # after an error too: the other processes will raise the same one
    if is_primary():
      wait_for_all(name)


def add_up(arrays: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
  """Sums arrays over all processes, in float64, which JAX would round to float32.

  Args:
    arrays: a named tuple of float64 arrays, with the same shapes on every process.

  Returns:
    A named tuple of the same type.
  """
  if jax.process_count() == 1:
    return arrays

  def total(array):
    bits = multihost_utils.process_allgather(np.ascontiguousarray(array).view(np.uint32))
    return np.asarray(bits).view(np.float64).sum(0)

  return type(arrays)(*(total(np.atleast_1d(a)).reshape(np.shape(a)) for a in arrays))


def wait_for_all(name: str) -> None:
  """Returns when every process has called this function with the same `name`."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)
