"""When and on which machine a run was trained: sessions.jsonl, with two lines for each session.

A session is one start of training, from its first step until it ends, fails or is stopped. Its first
line, `{"start", "step", "device", "platform", "devices", "cores", "jax", "version"}`, is written when it
begins. Its second line, `{"end", "seconds"}`, is missing if the process was killed.
"""

from collections.abc import Iterator
import contextlib
import datetime
import importlib.metadata
import json
import os
import pathlib
import time
from typing import Any

from absl import logging
import jax

from alexnet_jax.data.splits import cores
from alexnet_jax.distributed import multihost
from alexnet_jax.utils import processor
from alexnet_jax.version import __version__

FILE = 'sessions.jsonl'


@contextlib.contextmanager
def recorded(workdir: pathlib.Path, step: int) -> Iterator[None]:
  """Records the block as a session that begins after `step` steps; of several processes, only process 0 does.

  A file that cannot be written is a warning, since training does not need it.
  """
  began = time.perf_counter()
  _append(workdir, {'start': _now(), 'step': step, **_machine()})
  try:
    yield
  finally:
    _append(workdir, {'end': _now(), 'seconds': round(time.perf_counter() - began, 1)})


def read(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the sessions of a run, oldest first, each as one dict; one that was killed has no `seconds`.

  A run of an earlier version, or a file of weights, has none. A line that cannot be read is left out.
  """
  sessions: list[dict[str, Any]] = []
  try:
    lines = (workdir / FILE).read_text(errors='replace').splitlines()
  except OSError:
    return []
  for line in lines:
    with contextlib.suppress(ValueError):
      values = json.loads(line)
      if not isinstance(values, dict):
        continue
      if 'start' in values:
        sessions.append(values)
      elif sessions and 'end' not in sessions[-1]:
        sessions[-1] |= values
  return sessions


def _machine() -> dict[str, object]:
  device = jax.devices()[0]
  return {
    'device': processor.name() if device.platform == 'cpu' else device.device_kind,
    'platform': device.platform,
    'devices': jax.device_count(),
    'cores': cores(),
    'jax': importlib.metadata.version('jax'),
    'version': __version__,
  }


def _now() -> str:
  return datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')


def _append(workdir: pathlib.Path, values: dict[str, object]) -> None:
  if not multihost.is_primary():
    return
  try:
    with (workdir / FILE).open('ab+') as file:
      file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
      cut = file.read() not in (b'', b'\n')  # the last line was written in part
      file.write(b'\n' * cut + json.dumps(values).encode() + b'\n')
  except OSError as error:
    logging.warning('%s cannot be written (%s)', workdir / FILE, error.strerror)
