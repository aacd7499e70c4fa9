"""Output of a training run: metrics.jsonl, TensorBoard, Weights & Biases, and a progress line on stderr."""

from collections import deque
from collections.abc import Iterator, Mapping
import json
import os
import pathlib
import sys
import time
from typing import Protocol, TypeVar
import uuid

from ml_collections import ConfigDict, FrozenConfigDict

from alexnet_jax.errors import UserError
from alexnet_jax.utils import atomic_io, console
from alexnet_jax.utils.optional_import import import_module

FILE = 'metrics.jsonl'
WANDB_ID = 'wandb_id'  # the file that names the W&B run of a workdir
_EVALUATED = ('val/', 'train_set/')  # prefixes of the values that evaluations write
_RECENT = 20  # lines of progress from which the time left is estimated

T = TypeVar('T')


class Writer(Protocol):
  """A destination for metrics other than metrics.jsonl."""

  def write(self, step: int, values: Mapping[str, float | int]) -> None:
    """Writes the values of one step."""

  def close(self) -> None:
    """Flushes and closes the destination."""


class _TensorBoard:
  """Writes events to WORKDIR/tensorboard and hides older events of later steps than `step`.

  The events are written by the caller's thread. tensorboardX's SummaryWriter has a thread of its own; if that
  thread ends because the disk is full, the next calls wait for it for ever.
  """

  def __init__(self, workdir: pathlib.Path, step: int):
    # Importing tensorboardX takes a second.
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.summary_pb2 import Summary

    self._event, self._summary = Event, Summary
    folder = workdir / 'tensorboard'
    folder.mkdir(exist_ok=True)
    self._writer = EventsWriter(str(folder / 'events'), f'.{step}')
    start = SessionLog(status=SessionLog.START)
    self._writer.write_event(Event(wall_time=time.time(), step=step + 1, session_log=start))

  def write(self, step: int, values: Mapping[str, float | int]) -> None:
    """Writes the values of one step as one event."""
    summary = self._summary(
      value=[self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
    )
    self._writer.write_event(self._event(wall_time=time.time(), step=step, summary=summary))
    self._writer.flush()

  def close(self) -> None:
    self._writer.close()


class _Wandb:
  """Writes to Weights & Biases; a workdir keeps the same W&B run however often it is resumed.

  A resumed run may log a step for the second time; W&B drops such rows, which equal the first ones.
  """

  def __init__(self, workdir: pathlib.Path, config: ConfigDict | FrozenConfigDict):
    wandb = import_module('wandb', 'wandb', 'config.log.wandb')
    path = workdir / WANDB_ID
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
        f'config.log.wandb={config.log.wandb}: {" ".join(str(error).split())} (with '
        'WANDB_MODE=offline, neither an account nor a network is needed)'
      ) from None

  def write(self, step: int, values: Mapping[str, float | int]) -> None:
    self._run.log(dict(values), step=step)

  def close(self) -> None:
    self._run.finish()


class Metrics:
  """Appends to metrics.jsonl, and to the other destinations that `config.log` enables.

  Args:
    workdir: the folder of the run.
    step: number of completed steps. Lines of later steps are removed, so that a resumed run leaves the same
      file as an uninterrupted one.
    config: the whole config.
    quiet: write nothing; set in all processes but one.
    unevaluated: whether the evaluation at `step` will be repeated; its line is then removed too.
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
    """Flushes the lines to the disk; called before a checkpoint that depends on them is written."""
    if self._file:
      os.fsync(self._file.fileno())

  def close(self) -> None:
    """Closes the files."""
    if self._file:
      self._file.close()
    for writer in self._writers:
      writer.close()


def _lines_until(path: pathlib.Path, step: int, unevaluated: bool) -> list[str]:
  """Returns the lines of metrics.jsonl up to `step`, or up to the first line that a kill left incomplete."""
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
  """Measures images per second and the share of time spent waiting for data, since the last `lap`."""

  def __init__(self):
    self._created = self._lap_start = time.perf_counter()
    self._paused = self._waited = 0.0
    self._images = self._steps = 0
    self._first: tuple[float, float] | None = None

  def started(self) -> None:
    """Begins the lap after the first step, whose time is mostly that of compilation.

    If a lap ends before another step, it has the images and the time of the first step.
    """
    self._first = self.lap()

  def wait_for(self, batches: Iterator[T]) -> T:
    """Returns the next batch and counts the time until it arrives as waiting for data."""
    began = time.perf_counter()
    batch = next(batches)
    self._waited += time.perf_counter() - began
    return batch

  def trained(self, images: int) -> None:
    """Counts one step and its images."""
    self._images += images
    self._steps += 1

  def paused(self, seconds: float) -> None:
    """Excludes time that was spent on evaluation or checkpoints."""
    self._paused += seconds

  def seconds_per_step(self) -> float:
    """Returns the mean seconds per step since the timer was created, including all pauses."""
    return (time.perf_counter() - self._created) / max(self._steps, 1)

  def lap(self) -> tuple[float, float]:
    """Returns (images per second, share of time waiting for data) since the last call."""
    now = time.perf_counter()
    seconds = max(now - self._lap_start - self._paused, 1e-9)
    result = self._images / seconds, self._waited / seconds
    if not self._images and self._first:
      result = self._first
    self._lap_start, self._paused, self._waited, self._images = now, 0.0, 0.0, 0
    return result


class Progress:
  """Shows the progress on stderr: one line that is rewritten on a terminal, a new line each time in a log."""

  def __init__(self, total_steps: int, quiet: bool = False):
    self._total = total_steps
    self._lines = deque[tuple[int, float]](maxlen=_RECENT + 1)  # steps and times of the last lines
    self._live = sys.stderr.isatty()
    self._quiet = quiet

  def show(self, step: int, values: Mapping[str, float]) -> None:
    """Shows `values`, which are those written to metrics.jsonl, and an estimate of the time left."""
    if self._quiet:
      return
    self._lines.append((step, time.perf_counter()))
    where, loss = f'step {step}/{self._total}', f'loss {values["loss"]:.4f}'
    speed = (
      f'lr {values["lr"]:.3g}  {values["images_per_s"]:.1f} images/s  '
      f'waiting for data {values["data_wait_frac"]:.1%}'
    )
    line = (
      f'{console.painted(where, console.BOLD)}  epoch {values["epoch"]:.2f}  '
      f'{console.painted(loss, console.BOLD)}  {console.painted(speed, console.DIM)}  left {self._left()}'
    )
    print(
      f'\r{line}\x1b[K' if self._live else line, end='' if self._live else '\n', file=sys.stderr
    )
    sys.stderr.flush()

  def _left(self) -> str:
    """Estimates the time left from the last lines, so that neither compilation nor an old pause counts."""
    (first, began), (step, now) = self._lines[0], self._lines[-1]
    if step == first:
      return '?'
    return _duration((now - began) / (step - first) * (self._total - step))

  def end(self) -> None:
    """Ends the line on a terminal, so that other output starts on a new one."""
    if self._live and not self._quiet:
      print(file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02}:{seconds:02}'
