"""A training run: its fixed parts, which the loop and its hooks share, its start, and its results so far."""

from collections.abc import Generator, Iterator
import dataclasses
import functools
import math
import pathlib
from typing import Any

from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np

from alexnet_jax import config as config_lib
from alexnet_jax import steps
from alexnet_jax.data import Dataset, Statistics
from alexnet_jax.distributed import multihost, sharding
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import per_class
from alexnet_jax.steps import schedules
from alexnet_jax.training.fine_tuning import copy_layers
from alexnet_jax.training.preemption import StopSignal
from alexnet_jax.utils.prefetch import prefetch
from alexnet_jax.workdir import metrics, sessions
from alexnet_jax.workdir.checkpoint import Checkpoints

_BATCHES_AHEAD = 1  # batches that wait on the devices; one more is on its way to them


@dataclasses.dataclass(frozen=True)
class Run:
  """The parts of a training run that do not change while it runs.

  Attributes:
    config: the whole config, as `resolve` returns it.
    workdir: the folder of the run.
    dataset: the open data set.
    mesh: the devices.
    checkpoints: the checkpoints in `workdir`.
    stop: the handler of SIGTERM.
  """

  config: FrozenConfigDict
  workdir: pathlib.Path
  dataset: Dataset
  mesh: Mesh
  checkpoints: Checkpoints
  stop: StopSignal

  @functools.cached_property
  def total_steps(self) -> int:
    """Returns the number of steps of the whole run."""
    return schedules.total_steps(self.config, self.dataset.num_train)

  @functools.cached_property
  def class_weights(self) -> np.ndarray | None:
    """Returns the weight of the loss of each class, float32 `[classes]`, or None for equal weights.

    The mean over the training images is 1.
    """
    if self.config.train.class_weights == 'none':
      return None
    counts = self.dataset.train_counts
    weights = counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return weights.astype(np.float32)

  def epoch(self, step: int) -> float:
    """Returns the number of epochs, with fraction, that are complete after `step` steps."""
    return step * self.config.train.batch_size / self.dataset.num_train

  def epoch_ended(self, step: int) -> bool:
    """Returns whether step number `step` (counted from 1) completed an epoch."""
    return math.floor(self.epoch(step)) > math.floor(self.epoch(step - 1))

  def batches(self, first: int) -> Generator[dict]:
    """Yields the training batches from step `first` (counted from 0) on; each is on the devices already.

    Closing the generator ends the thread that reads ahead. The data set closes its own reader.
    """
    batch_size, weights = self.config.train.batch_size, self.class_weights
    rows = sharding.local_rows(self.mesh, batch_size)
    on_host: Iterator[dict] = self.dataset.train_batches(first, batch_size, rows)
    if weights is not None:
      on_host = (batch | {'weight': weights[batch['label']]} for batch in on_host)
    on_devices = (sharding.shard_batch(self.mesh, batch) for batch in on_host)
    return prefetch(on_devices, _BATCHES_AHEAD)


@dataclasses.dataclass
class Record:
  """The results of a run so far. Every checkpoint stores them, and a resumed run continues with them.

  Attributes:
    schedule: state of the plateau rule.
    loss: mean training loss of the last log line, None before the first.
    validation: what the last evaluation wrote to metrics.jsonl, such as `val/top1_error` in per cent.
    unevaluated: whether an evaluation was due at the last step and SIGTERM interrupted it.
    best_error: the lowest validation top-1 error so far, in per cent; None before the first evaluation.
    best_step: the last step with that error.
    epoch_error: the lowest validation top-1 error at the end of an epoch.
    stale: the number of epochs since `epoch_error` was last lowered.
  """

  schedule: schedules.ScheduleState = dataclasses.field(default_factory=schedules.ScheduleState)
  loss: float | None = None
  validation: dict[str, Any] = dataclasses.field(default_factory=dict)
  unevaluated: bool = False
  best_error: float | None = None
  best_step: int | None = None
  epoch_error: float | None = None
  stale: int = 0

  def add_error(self, step: int, error: float, counts: bool) -> None:
    """Records a validation top-1 error, in per cent; the later of equals is the best, as of checkpoints.

    Args:
      step: the number of complete steps.
      error: the error.
      counts: whether the evaluation counts for early stopping. That at the end of a run does not if it is
        within an epoch, because a longer run would not evaluate there.
    """
    if self.best_error is None or error <= self.best_error:
      self.best_error, self.best_step = error, step
    if counts:
      is_lower = self.epoch_error is None or error < self.epoch_error
      self.stale = 0 if is_lower else self.stale + 1
      self.epoch_error = error if is_lower else self.epoch_error

  def best(self) -> dict[str, Any]:
    """Returns what a checkpoint stores of the best error."""
    names = ('best_error', 'best_step', 'epoch_error', 'stale')
    return {name: getattr(self, name) for name in names}

  def reason_to_end(self, config: ConfigDict | FrozenConfigDict) -> str:
    """Returns why the run ends before its last step, given `config.train`; '' if it goes on."""
    if self.has_reached(config.until_train_error):
      return f'the error on the training images is at most {config.until_train_error:g} %'
    if 0 < config.early_stopping <= self.stale:
      return f'the validation error has not become lower in {self.stale} evaluations'
    return ''

  def has_reached(self, target: float) -> bool:
    """Returns whether the error on the training split is at most `target` per cent; False if that is 0."""
    return target > 0 and self.validation.get('train_set/top1_error', math.inf) <= target


def resolve(config: ConfigDict, dataset: Dataset) -> FrozenConfigDict:
  """Sets `config.model.num_classes` from the data set and validates the result.

  Raises:
    UserError: the config does not fit the data set, or a value is invalid.
  """
  config = config.copy_and_resolve_references()
  classes = len(dataset.class_names)
  if classes < 2:
    raise UserError(
      f'{config.data.source} has one class, {dataset.class_names[0]!r}: training needs two or more'
    )
  if config.model.num_classes not in (0, classes):
    raise UserError(
      f'config.model.num_classes={config.model.num_classes}, but {config.data.source} has {classes} '
      'classes: set --config.model.num_classes=0 to use the number of classes of the data'
    )
  if config.eval.weights == 'ema' and not config.optim.ema:
    raise UserError(
      'config.eval.weights=ema, but config.optim.ema is 0: set --config.optim.ema=0.999, for example'
    )
  if config.optim.ema and config.model.norm == 'batch':
    raise UserError(
      f'config.optim.ema={config.optim.ema:g}: it averages the weights alone, and the moments of batch '
      'normalisation would be those of other weights; set it to 0'
    )
  config.model.num_classes = classes
  config_lib.validate(config)
  return FrozenConfigDict(config)


def start(
  run: Run, statistics: Statistics | None = None
) -> tuple[steps.TrainState, Statistics, Record]:
  """Restores the newest checkpoint, or initialises a new run if there is none.

  Args:
    run: the run.
    statistics: those of the training images, on the devices, if they are known.

  Returns:
    The train state and the statistics of the training images, both on the devices, and the record.

  Raises:
    UserError: the layers to copy do not fit.
    RunError: there are checkpoints, but all of them are damaged.
  """
  step = run.checkpoints.latest()
  if step is None:
    return _start_new(run, statistics)
  meta = run.checkpoints.meta(step)
  best = meta.get('best', {})
  record = Record(
    schedule=schedules.ScheduleState(**meta['schedule']),
    loss=meta['loss'],
    validation=meta['validation'],
    unevaluated=meta.get('unevaluated', False),
    **{'epoch_error': best.get('best_error')} | best,
  )
  size = run.config.data.canvas.size
  if statistics is None:
    statistics = run.checkpoints.restore_statistics(step, run.mesh, size)
  logging.info('resuming %s at step %d of %d', run.workdir, step, run.total_steps)
  state = run.checkpoints.restore(step, steps.abstract_state(run.config, run.mesh))
  return state, statistics, record


def _start_new(
  run: Run, statistics: Statistics | None
) -> tuple[steps.TrainState, Statistics, Record]:
  state = copy_layers(run.config, run.mesh, steps.init_state(run.config, run.mesh))
  if statistics is not None:
    return state, statistics, Record()
  if run.config.note:
    logging.warning(run.config.note)
  _forget_earlier_run(run.workdir)
  share = multihost.share()
  # Only a single process reads and writes the cached statistics: several might see different files.
  cache_dir = str(run.workdir) if share == (0, 1) else None
  statistics = run.dataset.statistics(cache_dir, share, multihost.add_up)  # type: ignore[arg-type]
  return state, sharding.replicate(run.mesh, statistics), Record()


def _forget_earlier_run(workdir: pathlib.Path) -> None:
  """Removes what an earlier run, of which no checkpoint is left, has written beside its metrics."""
  if multihost.is_primary():
    for name in (sessions.FILE, metrics.WANDB_ID, per_class.FILE):
      (workdir / name).unlink(missing_ok=True)
