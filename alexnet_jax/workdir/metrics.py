"""What a run says: metrics.jsonl, TensorBoard, Weights & Biases, and a line of progress on stderr."""

from collections.abc import Mapping
import json
import math
import os
import pathlib
import sys
import time
from typing import Protocol
import uuid

from ml_collections import ConfigDict, FrozenConfigDict

from alexnet_jax.errors import UserError
from alexnet_jax.utils import atomic_io, console
from alexnet_jax.utils.optional_import import import_module

FILE = 'metrics.jsonl'
_EVALUATED = ('val/', 'train_set/')  # how the names of what evaluations write begin


class Writer(Protocol):
  """What takes the numbers of a run."""

  def write(self, step: int, values: Mapping[str, float | int]) -> None:
    """Takes the numbers of a step."""

  def close(self) -> None:
    """Ends the record."""


class _TensorBoard:
  """Events in WORKDIR/tensorboard; those beyond the first step are cut."""

  def __init__(self, workdir: pathlib.Path, step: int):
    from tensorboardX import SummaryWriter  # imported late: it takes a second

    self._writer = SummaryWriter(str(workdir / 'tensorboard'), purge_step=step + 1)

  def write(self, step: int, values: Mapping[str, float | int]) -> None:
    for name, value in values.items():
      self._writer.add_scalar(name, value, step)
    self._writer.flush()

  def close(self) -> None:
    self._writer.close()


class _Wandb:
  """A run of Weights & Biases, the same one for a workdir however often it is resumed.

  Rows that a resumed run gives again are dropped there, and they are the same.
  """

  def __init__(self, workdir: pathlib.Path, config: ConfigDict | FrozenConfigDict):
    wandb = import_module('wandb', 'wandb', 'config.log.wandb')
    path = workdir / 'wandb_id'
    if not path.exists():
      path.write_text(uuid.uuid4().hex)
    try:
      self._run = wandb.init(
        project=config.log.wandb,
        dir=workdir,
        id=path.read_text(),
        name=workdir.absolute().name,
        config=config.to_dict(),
        resume='allow',
        settings=wandb.Settings(silent=True),
      )
    except wandb.Error as error:
      raise UserError(
        f'config.log.wandb={config.log.wandb}: {" ".join(str(error).split())} (WANDB_MODE=offline needs '
        'neither account nor network)'
      ) from None

  def write(self, step: int, values: Mapping[str, float | int]) -> None:
    self._run.log(dict(values), step=step)

  def close(self) -> None:
    self._run.finish()


class Metrics:
  """Appends to metrics.jsonl, and to what else `config.log` asks for.

  Args:
    workdir: of the run.
    step: the step it starts from; what lies beyond it in the files is cut, so that a resumed run leaves
      the same files as one that was never stopped.
    config: of the run.
    quiet: writes nothing, as all but one of several processes should.
    unevaluated: whether `step` is to be evaluated again, so that what evaluations wrote at it is cut too.
  """

  def __init__(
    self,
    workdir: str | pathlib.Path,
    step: int,
    config: ConfigDict | FrozenConfigDict,
    quiet: bool = False,
    unevaluated: bool = False,
  ):
    self._file, self._writers = None, list[Writer]()
    if quiet:
      return
    workdir = pathlib.Path(workdir)
    path = workdir / FILE
    lines = _lines_until(path, step, unevaluated) if path.exists() else []
    atomic_io.write(path, ''.join(lines))
    if config.log.tensorboard:
      self._writers.append(_TensorBoard(workdir, step))
    if config.log.wandb:
      self._writers.append(_Wandb(workdir, config))
    self._file = path.open('a')

  def write(self, step: int, values: Mapping[str, float | int]) -> None:
    """Writes one line, `{"step": step, **values}`, and flushes it."""
    if self._file is None:
      return
    self._file.write(json.dumps({'step': step, **values}) + '\n')
    self._file.flush()
    for writer in self._writers:
      writer.write(step, values)

  def sync(self) -> None:
    """Brings what was written to the disk, as a checkpoint that comes after it needs it."""
    if self._file:
      os.fsync(self._file.fileno())

  def close(self) -> None:
    """Closes the files."""
    if self._file:
      self._file.close()
    for writer in self._writers:
      writer.close()


def _lines_until(path: pathlib.Path, step: int, unevaluated: bool) -> list[str]:
  """The lines of metrics.jsonl up to `step`; a line torn by a kill ends them."""
  kept = []
  for line in path.read_text().splitlines(keepends=True):
    try:
      values = json.loads(line)
      if values['step'] > step:
        break
      if (
        unevaluated and values['step'] == step and any(key.startswith(_EVALUATED) for key in values)
      ):
        continue
    except (ValueError, KeyError, TypeError):
      break
    kept.append(line)
  return kept


class Timer:
  """Images a second and the share of time spent waiting for data, since the last `lap`."""

  def __init__(self):
    self._start = time.perf_counter()
    self._paused = self._waited = 0.0
    self._images = self._steps = 0
    self._begin = self._start

  def trained(self, images: int) -> None:
    """Counts the images of a step."""
    self._images += images
    self._steps += 1

  def seconds_a_step(self) -> float:
    """Seconds since the beginning, whatever they were spent on, by steps."""
    return (time.perf_counter() - self._begin) / max(self._steps, 1)

  def waited(self, seconds: float) -> None:
    """Counts time that the loop stood still for want of data."""
    self._waited += seconds

  def paused(self, seconds: float) -> None:
    """Leaves time out that was spent on evaluation or checkpoints."""
    self._paused += seconds

  def lap(self) -> tuple[float, float]:
    """Returns (images/s, share of time waiting) since the last call."""
    now = time.perf_counter()
    seconds = max(now - self._start - self._paused, 1e-9)
    result = self._images / seconds, self._waited / seconds
    self._start, self._paused, self._waited, self._images = now, 0.0, 0.0, 0
    return result


class Progress:
  """One line of progress on stderr: rewritten in place on a terminal, a line each time in a log."""

  def __init__(self, total_steps: int, step: int, quiet: bool = False):
    self._total, self._first = total_steps, step
    self._start = time.perf_counter()
    self._live = sys.stderr.isatty()
    self._quiet = quiet

  def show(self, step: int, values: Mapping[str, float]) -> None:
    """Shows where the run is; `values` as written to metrics.jsonl."""
    if self._quiet:
      return
    done = step - self._first
    left = (time.perf_counter() - self._start) / max(done, 1) * (self._total - step)
    where, loss = f'step {step}/{self._total}', f'loss {values["loss"]:.4f}'
    speed = (
      f'lr {values["lr"]:.3g}  {values["images_per_s"]:.1f} images/s  '
      f'waiting for data {values["data_wait_frac"]:.1%}'
    )
    line = (
      f'{console.painted(where, console.BOLD)}  epoch {values["epoch"]:.2f}  '
      f'{console.painted(loss, console.BOLD)}  {console.painted(speed, console.DIM)}  left {_duration(left)}'
    )
    print(
      f'\r{line}\x1b[K' if self._live else line, end='' if self._live else '\n', file=sys.stderr
    )
    sys.stderr.flush()

  def end(self) -> None:
    """Leaves the line standing, so that other output starts on its own."""
    if self._live and not self._quiet:
      print(file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
  if not math.isfinite(seconds):
    return '?'
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02}:{seconds:02}'
