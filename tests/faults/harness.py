"""Data, undisturbed reference runs, and functions that start and compare runs, for all scenarios."""

from collections.abc import Callable
import contextlib
import hashlib
import math
import pathlib
import random
import subprocess
import tempfile
import time

import jax
from ml_collections import FrozenConfigDict
import numpy as np
from PIL import Image
from tiny import ROOT, ProcessGroup, command, read_metrics, write_config

from alexnet_jax import config as config_lib
from alexnet_jax import steps
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.workdir.checkpoint import FOLDER, Checkpoints

BOUND = 150  # seconds after which a process counts as hung, even on a machine under load
_START = 5.0  # approximate number of seconds before the first step of a run
_POLL = 0.01  # seconds between two checks of a condition
_SUSPENSION = 3  # seconds; if one such pause takes longer, the machine itself was suspended
suspensions: list[int] = []  # has an entry for each detected suspension
STEPS = 18
SIDE, CLASSES, TRAINING, VALIDATION = 72, 4, 10, 4  # images per class
# The run depends on every kind of state: dropout, momentum, and a learning rate that falls after every epoch.
# It has only three layers, because tracing the layers dominates the start-up time.
_OVERRIDES = {
  'model__layers': ('conv1', 'fc6', 'fc8'),
  'data__max_bad_share': 0.1,
  'train__steps': STEPS,
  'train__log_every': 1,
  'train__checkpoint_every': 6,
  'train__keep': 3,
  'log__tensorboard': True,
  'optim__schedule': 'plateau',
  'optim__factor': 0.8,
  'optim__plateau__patience': 1,
  'optim__plateau__min_delta': 100.0,
  'optim__plateau__drops': 50,
}


class Hang(Exception):
  """A process did not end within its time limit."""


class Harness:
  """A folder with data, configs and undisturbed reference runs.

  Attributes:
    folder: contains everything that the scenarios write.
    code: the checkout whose main.py is started. The controls use a patched copy.
    undisturbed: metrics and digest of the final state for each kind of run: `folder`, `store`, `two`.
  """

  def __init__(self, folder: pathlib.Path, code: pathlib.Path = ROOT):
    self.folder, self.code = folder, code
    folder.mkdir(parents=True, exist_ok=True)
    self.undisturbed = {}

  def config(self, kind: str, data: pathlib.Path) -> pathlib.Path:
    """Writes the config file of a run that reads its images from `data`, and returns its path."""
    source = f'store:{data}' if kind == 'store' else f'folder:{data}'
    folder = self.folder / 'configs' / data.name / kind
    folder.mkdir(parents=True, exist_ok=True)
    overrides = {'mesh': (1, 2)} if kind == 'two' else {}
    return write_config(folder, data__source=source, **_OVERRIDES, **overrides)

  def data(self, kind: str) -> pathlib.Path:
    """Writes the data for a kind of run if they are missing, and returns their folder."""
    images = self.folder / 'images'
    if not images.exists():
      write_images(images)
    if kind != 'store':
      return images
    store = self.folder / 'store'
    if not (store / 'store.json').exists():
      result = self.main(
        '--mode=prepare', f'--config={self.config("folder", images)}', f'--output={store}'
      )
      assert result.returncode == 0, result.stderr
    return store

  def reference(self, kind: str) -> tuple[list[dict], str]:
    """Returns the metrics and the digest of the undisturbed run, which is trained at the first call."""
    if kind not in self.undisturbed:
      workdir = self.folder / f'undisturbed-{kind}'
      result = self.train(kind, self.data(kind), workdir)
      assert result.returncode == 0, result.stderr
      self.undisturbed[kind] = read_metrics(workdir), digest(workdir)
    return self.undisturbed[kind]

  def arguments(self, kind: str, data: pathlib.Path, workdir: pathlib.Path) -> tuple[str, ...]:
    """Returns the arguments of main.py for training."""
    return f'--config={self.config(kind, data)}', f'--workdir={workdir}'

  def start(
    self, *args: str, child: str = '', log: pathlib.Path, **environment
  ) -> subprocess.Popen:
    """Starts main.py with stderr appended to `log`; `child` names faults of `child.py` to inject."""
    line, env = command(*args)
    line[1] = str(self.code / 'main.py')
    if child:
      line[1:2] = [str(pathlib.Path(__file__).with_name('child.py')), child, line[1]]
    with log.open('ab') as stderr:
      return subprocess.Popen(
        line, env=env | environment, cwd=self.code, stdout=subprocess.DEVNULL, stderr=stderr
      )

  def main(self, *args: str) -> subprocess.CompletedProcess:
    """Runs main.py to its end and returns its exit code and output."""
    line, env = command(*args)
    line[1] = str(self.code / 'main.py')
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
      with subprocess.Popen(line, env=env, cwd=self.code, stdout=out, stderr=err) as process:
        wait_for(process)
      texts = []
      for file in (out, err):
        file.seek(0)
        texts.append(file.read().decode(errors='replace'))
    return subprocess.CompletedProcess(args, process.returncode, *texts)

  def train(self, kind: str, data: pathlib.Path, workdir: pathlib.Path):
    """Trains or resumes to the end, and returns the result of the process, or of process 0 of two."""
    args = self.arguments(kind, data, workdir)
    if kind != 'two':
      return self.main(*args)
    with self.start_two(*args) as run:
      for process in run.processes:
        wait_for(process)
      return run.wait()[0]

  def start_two(self, *args: str) -> ProcessGroup:
    """Starts two processes that train together."""
    return ProcessGroup(*args, '--peer_timeout=6')


def until(done: Callable[[], bool], seconds: float = BOUND) -> bool:
  """Waits until `done()` is true, and returns False if that takes longer than `seconds`.

  It counts its own pauses, because the clock advances while the machine is suspended.
  """
  for _ in range(math.ceil(seconds / _POLL)):
    if done():
      return True
    before = time.monotonic()
    time.sleep(_POLL)
    if time.monotonic() - before > _SUSPENSION:
      suspensions.append(1)
  return done()


def wait_for(process: subprocess.Popen, seconds: float = BOUND) -> int:
  """Returns the exit code of a process that should end by itself within `seconds`.

  Raises:
    Hang: the process did not end and was killed.
  """
  if not until(lambda: process.poll() is not None, seconds):
    process.kill()
    process.wait()
    raise Hang('a process did not end')
  return process.returncode


def write_images(root: pathlib.Path) -> None:
  """Writes PNG files of noise, `root/{train,val}/CLASS/N.png`. Every call writes the same pixels."""
  rng = np.random.default_rng(0)
  for split, number in (('train', TRAINING), ('val', VALIDATION)):
    for label in range(CLASSES):
      folder = root / split / f'class{label}'
      folder.mkdir(parents=True)
      for i in range(number):
        pixels = rng.integers(0, 160, (SIDE, SIDE, 3), np.uint8)
        pixels[:, :, label % 3] += 20 * (label + 1)
        Image.fromarray(pixels).save(folder / f'{i}.png')


def digest(workdir: pathlib.Path) -> str:
  """Returns the SHA-256 of the newest state: parameters, velocity, running sums and step."""
  config = config_lib.load_workdir(workdir)
  config.mesh = (1, 1)
  config = FrozenConfigDict(config)
  mesh = mesh_lib.make_mesh(config)
  with Checkpoints(workdir, read_only=True) as checkpoints:
    step = checkpoints.latest()
    state = checkpoints.restore(step, steps.abstract_state(config, mesh))
    meta = checkpoints.meta(step)
  found = hashlib.sha256(repr((meta['schedule'], meta['validation'], meta['loss'])).encode())
  for leaf in jax.tree.leaves(jax.device_get(state)):
    found.update(np.ascontiguousarray(leaf).tobytes())
  return found.hexdigest()


def sealed(workdir: pathlib.Path) -> list[int]:
  """Returns the steps of the complete checkpoints in ascending order."""
  folder = workdir / FOLDER
  names = [path.name for path in folder.iterdir()] if folder.exists() else []
  return sorted(int(name) for name in names if name.isdigit())


def rows(workdir: pathlib.Path) -> int:
  """Returns the number of lines of metrics.jsonl."""
  with contextlib.suppress(FileNotFoundError):
    return (workdir / 'metrics.jsonl').read_text().count('\n')
  return 0


def wait_for_moment(
  rng: random.Random, workdir: pathlib.Path, processes: list, early: float = 0.2
) -> str:
  """Waits for a random moment of a run or for its end, and returns a description of the moment.

  A share `early` of the moments is in the start-up time. The others follow a random line of metrics.jsonl.
  """

  def alive() -> bool:
    return all(process.poll() is None for process in processes)

  if rng.random() < early:
    seconds = rng.uniform(0, _START)
    until(lambda: not alive(), seconds)
    return f'after {seconds:.2f} s'
  line, pause = rng.randrange(STEPS), rng.uniform(0, 0.2)
  if not until(lambda: rows(workdir) >= line or not alive()):
    raise Hang(f'no line {line} of metrics.jsonl')
  time.sleep(pause)
  return f'{pause:.2f} s after line {line}'
