"""A tiny config that runs the real code in seconds, and functions that run the real command line."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
import contextlib
import itertools
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax.config import recipes

ROOT = pathlib.Path(__file__).parent.parent
CIFAR10 = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')
# Each xdist worker has its own ports, below those that Linux gives to clients (from 32768).
_FIRST_PORT = 13000 + 1000 * (int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0')[2:]) % 19)
_PORTS = itertools.cycle(range(_FIRST_PORT, _FIRST_PORT + 1000))


def tiny_config(variant: str = 'original', **overrides) -> ConfigDict:
  """Returns the config of a narrow network on 64-pixel crops of synthetic images.

  Its weights are initialised as in PyTorch.
  """
  config = shrink(recipes.get(variant))
  recipes.apply(config, {'model.init': 'torch', 'optim.unit': 'epoch', 'optim.layer_rates': ()})
  return recipes.apply(config, {key.replace('__', '.'): value for key, value in overrides.items()})


def shrink(config: ConfigDict) -> ConfigDict:
  """Changes `config` to a narrow network that trains on synthetic images in seconds, and returns it.

  Crops of more than 64 pixels become crops of 64 pixels from canvases of 72 pixels.
  """
  size = min(config.model.input_size, 64)
  margin = min(config.data.canvas.size - config.model.input_size, 8)
  return recipes.apply(
    config,
    {
      'model.width': 1 / 16,
      'model.input_size': size,
      'mesh': (1, 1),
      'data.source': 'synthetic',
      'data.canvas.size': size + margin,
      'data.synthetic.classes': 4,
      'data.synthetic.train': 40,
      'data.synthetic.validation': 18,
      'train.batch_size': 8,
      'train.epochs': 4.0,
      'train.steps': 0,
      'train.log_every': 2,
      'train.checkpoint_every': 3,
      'eval.batch_size': 8,
      'eval.views': 1,
      'log.tensorboard': False,
    },
  )


def read_metrics(workdir: pathlib.Path) -> list[dict]:
  """Returns the rows of metrics.jsonl without the values that depend on the clock."""
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  return [
    {k: v for k, v in row.items() if k not in ('images_per_s', 'data_wait_frac')} for row in rows
  ]


def write_config(folder: pathlib.Path, **overrides) -> pathlib.Path:
  """Writes a config file that returns `tiny_config` with overrides, and returns its path."""
  path = folder / 'tiny_experiment.py'
  path.write_text(
    f'import sys\nsys.path.insert(0, {str(ROOT / "tests")!r})\nfrom tiny import tiny_config\n\n\n'
    f'def get_config():\n  return tiny_config(**{overrides!r})\n'
  )
  return path


def command(*args: str, devices: int = 1) -> tuple[list[str], dict[str, str]]:
  """Returns the command line and the environment of `python main.py ARGS` on `devices` CPU devices."""
  env = os.environ | {'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': str(devices)}
  return [sys.executable, str(ROOT / 'main.py'), *args], env


def main(*args: str, devices: int = 1) -> subprocess.CompletedProcess:
  """Runs `python main.py ARGS` on `devices` CPU devices and returns the result."""
  line, env = command(*args, devices=devices)
  return subprocess.run(line, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300)


@contextlib.contextmanager
def started(log: pathlib.Path, *args: str) -> Iterator[subprocess.Popen]:
  """Starts `python main.py ARGS` with its stderr in the file `log`, and kills it on exit.

  Ctrl-C has its usual effect on the process, also where the tests run with this signal ignored.
  """
  line, env = command(*args)
  with log.open('w') as stderr:
    process = subprocess.Popen(
      ['env', '--default-signal=INT', *line],
      env=env,
      cwd=ROOT,
      stdout=subprocess.DEVNULL,
      stderr=stderr,
    )
  try:
    yield process
  finally:
    process.kill()
    process.wait()


def until(condition: Callable[[], Any], seconds: float = 240) -> Any:
  """Waits until `condition()` is true, and returns its value; fails after some seconds."""
  deadline = time.monotonic() + seconds
  while not (found := condition()):
    assert time.monotonic() < deadline, f'the condition was not met within {seconds} s'
    time.sleep(0.01)
  return found


def wait_for_lines(workdir: pathlib.Path, lines: int, *processes: subprocess.Popen) -> None:
  """Waits until metrics.jsonl has some lines; fails if a process ends before."""
  log = workdir / 'metrics.jsonl'

  def written() -> bool:
    running = all(process.poll() is None for process in processes)
    found = log.exists() and len(log.read_text().splitlines()) >= lines
    assert found or running, f'a process ended before {log} had {lines} lines'
    return found

  until(written)


def free_port() -> int:
  """Returns a port that no program uses and that no other call returns soon."""
  for port in itertools.islice(_PORTS, 1000):
    with socket.socket() as probe, contextlib.suppress(OSError):
      probe.bind(('', port))
      return port
  raise AssertionError(f'no port from {_FIRST_PORT} on is free')


class ProcessGroup:
  """Starts several processes of `python main.py --distributed ARGS`, and kills them on exit.

  Each process has one CPU device.
  """

  def __init__(self, *args: str, processes: int = 2, own: dict[int, tuple[str, ...]] | None = None):
    coordinator = f'--coordinator=localhost:{free_port()}'
    shared = ('--distributed', coordinator, f'--num_processes={processes}')
    self.processes = []
    for i in range(processes):
      line, env = command(*args, *shared, f'--process_id={i}', *(own or {}).get(i, ()))
      self.processes.append(
        subprocess.Popen(
          line, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
      )

  def __enter__(self):
    return self

  def __exit__(self, *_):
    for process in self.processes:
      process.kill()
      process.communicate()

  def wait(self, timeout: float = 300) -> list[subprocess.CompletedProcess]:
    """Waits at most `timeout` seconds for all processes and returns the result of each."""
    # One thread per process reads its output, so that no process blocks on a full pipe.
    with ThreadPoolExecutor(len(self.processes)) as pool:
      texts = pool.map(lambda process: process.communicate(timeout=timeout), self.processes)
      return [
        subprocess.CompletedProcess(process.args, process.returncode, *text)
        for process, text in zip(self.processes, texts, strict=True)
      ]
