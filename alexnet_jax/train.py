"""The training loop: from a config and a workdir to a trained network, resumable at any moment."""

from collections import deque
from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import errno
import math
import os
import pathlib
import time
from typing import Any

from absl import logging
import jax
from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np

from alexnet_jax import config as config_lib
from alexnet_jax import (
  diagnostics,
  distributed,
  evaluate,
  models,
  optim,
  parallel,
  profile,
  steps,
  transfer,
)
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.data import Dataset, open_dataset
from alexnet_jax.data.prefetch import prefetch
from alexnet_jax.errors import Preempted, RunError, UserError
from alexnet_jax.logging import Metrics, Progress, Timer

_SHARED_WAIT = 20  # seconds that a network file system may take to show a file to all hosts
_ON_DEVICE = 1  # batches there ahead of the step that takes them, and one on its way
_IN_FLIGHT = 2  # steps the host may run ahead of the devices

_STALLED = (
  'the loss is still at ln(classes) = %.3f after %d steps: the network has not begun to learn. Known '
  'remedies: recipe `original` (wider initial weights in conv3-conv5), --config.model.init=torch, '
  'smaller biases as in `caffe` (0.1), a lower rate (--config.optim.rate=), another seed, labels that '
  'match the images, and patience: with 1000 classes 5,000 to 15,000 steps were seen.'
)


def train(config: ConfigDict, workdir: str | pathlib.Path) -> dict[str, object]:
  """Trains, or goes on training, the run of `config` in `workdir`.

  Returns:
    `{'step', 'epoch', 'loss', 'top1_error', 'checkpoint', ...}`: the last ones logged; errors in %.

  Raises:
    UserError: the config or the data cannot be used, or the workdir holds another run.
    RunError: the loss is not finite, or too many images cannot be decoded.
    Preempted: SIGTERM came; a checkpoint has been written.
  """
  workdir = pathlib.Path(workdir)
  config_lib.validate(config)
  models.layer_table(config.model)  # a config that no network can be made of fails before the data
  mesh = parallel.make_mesh(config)
  with distributed.primary_first('data'):
    dataset = open_dataset(config.data, config.seed)
  with contextlib.closing(dataset):
    config = resolve(config, dataset)
    _make(workdir)
    with Checkpoints(workdir, config.train.keep) as checkpoints:
      _claim(workdir, config, checkpoints)
      dataset.preload()
      return _Run(config, workdir, dataset, mesh, checkpoints).run()


def resolve(config: ConfigDict, dataset: Dataset) -> FrozenConfigDict:
  """Fills in what the data decide and checks the rest; raises UserError."""
  config = config.copy_and_resolve_references()
  classes = len(dataset.class_names)
  if classes < 2:
    raise UserError(
      f'{config.data.source} has one class, {dataset.class_names[0]!r}: to learn takes two or more'
    )
  if config.model.num_classes not in (0, classes):
    raise UserError(
      f'config.model.num_classes={config.model.num_classes}, but {config.data.source} has {classes} '
      'classes: leave it at 0'
    )
  if config.eval.weights == 'ema' and not config.optim.ema:
    raise UserError('config.eval.weights=ema: set config.optim.ema too, to 0.999, say')
  config.model.num_classes = classes
  config_lib.validate(config)
  return FrozenConfigDict(config)


def _make(workdir: pathlib.Path) -> None:
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    if not os.access(workdir, os.W_OK):
      raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
  except OSError as error:
    raise UserError(
      f'--workdir={workdir} cannot be written ({error.strerror}): choose another folder'
    ) from None


def _claim(workdir: pathlib.Path, config: FrozenConfigDict, checkpoints: Checkpoints) -> None:
  """Makes `workdir` this run's, or checks that it is already; without a checkpoint there is no run."""
  path = workdir / config_lib.FILE
  if path.exists() and checkpoints.latest() is not None:
    config_lib.check_same_run(config_lib.load_workdir(workdir), config, workdir)
  text = config_lib.to_json(config)
  if not distributed.same_everywhere(text):
    raise UserError('the config is not the same on every process: give all the same command line')
  if distributed.is_primary():
    temporary = path.with_suffix('.tmp')
    temporary.write_text(text)
    temporary.replace(path)
  distributed.wait_for_all('config written')
  for _ in range(_SHARED_WAIT):
    if path.exists() and path.read_text() == text:
      return
    time.sleep(1)
  raise UserError(
    f'--workdir={workdir} is not the same folder on every process: use a file system that all share'
  )


class _Run:
  """One call of `train`: the pieces that the loop's phases share."""

  def __init__(self, config, workdir, dataset, mesh, checkpoints):
    self.config, self.workdir, self.dataset, self.mesh = config, workdir, dataset, mesh
    self.checkpoints = checkpoints
    self.total = config_lib.total_steps(config, dataset.num_train)
    self.schedule = optim.ScheduleState()
    self.last = {}  # the latest validation errors, as logged
    self.last_loss: float | None = None
    self.rates_now: tuple[Any, Any] = (None, None)
    self.evaluating = config.train.evaluate and dataset.num_validation > 0
    self.until = config.train.until_train_error
    if config.train.evaluate and not self.evaluating:
      logging.warning('no validation images: evaluation is skipped')

  def epoch(self, step: int) -> float:
    """Epochs done after `step` steps."""
    return step * self.config.train.batch_size / self.dataset.num_train

  def run(self) -> dict[str, object]:
    """Restores or starts, loops, and returns the summary."""
    state = self.start()
    first = int(state.step)
    logging.info(
      '%s: %d training and %d validation images of %d classes; %d parameters; %d steps on mesh %s',
      self.config.data.source,
      self.dataset.num_train,
      self.dataset.num_validation,
      len(self.dataset.class_names),
      sum(leaf.size for leaf in jax.tree.leaves(state.params)),
      self.total,
      tuple(self.mesh.shape.values()),
    )
    factor = optim.batch_factor(self.config)
    if factor != 1:
      logging.info('batch %d: rates are multiplied by %g', self.config.train.batch_size, factor)
    quiet = not distributed.is_primary()  # of several processes one writes
    self.metrics = Metrics(self.workdir, first, self.config, quiet)
    if first >= self.total or self.has_learnt():
      self.metrics.close()
      logging.info('nothing to do: the run has ended already, at step %d', first)
      return self.summary(first)
    self.train_step = steps.make_train_step(self.config, self.mesh)
    self.diagnostics = diagnostics.make_diagnostics_step(self.config, self.mesh)
    self.predict = steps.make_predict_step(self.config, self.mesh, self.config.eval.train_views)
    self.progress = Progress(self.total, first, quiet)
    self.timer = Timer()
    self.profile = profile.Window(self.workdir, self.config.train.profile, quiet)
    batch_size = self.config.train.batch_size
    rows = parallel.local_rows(self.mesh, batch_size)
    on_host = self.dataset.train_batches(first, batch_size, rows)
    # Batches are on the devices before they are asked for; `on_host` ends with the data set.
    on_device = (parallel.shard_batch(self.mesh, batch) for batch in on_host)
    batches = prefetch(on_device, _ON_DEVICE)
    try:
      with distributed.stop_signal() as told_to_stop, contextlib.closing(batches):
        last = self.loop(state, batches, told_to_stop)
    finally:
      self.profile.close()
      self.progress.end()
      self.metrics.close()
    return self.summary(last)

  def start(self) -> steps.TrainState:
    """The state to go on from: the newest checkpoint's, or a fresh one."""
    step = self.checkpoints.latest()
    if step is None:
      if self.config.note:
        logging.warning(self.config.note)
      alone = distributed.share() == (0, 1)  # several processes might not agree on a file
      statistics = self.dataset.statistics(
        self.workdir if alone else None, distributed.share(), distributed.add_up
      )
      self.statistics = parallel.replicate(self.mesh, statistics)
      state = steps.init_state(self.config, self.mesh)
      return transfer.copy_layers(self.config, self.mesh, state)
    meta = self.checkpoints.meta(step)
    self.check_same_data(meta)
    self.schedule = optim.ScheduleState(**meta['schedule'])
    self.last, self.last_loss = meta['validation'], meta['loss']
    self.statistics = self.checkpoints.restore_statistics(
      step, self.mesh, self.config.data.canvas.size
    )
    logging.info('resuming %s at step %d of %d', self.workdir, step, self.total)
    return self.checkpoints.restore(step, steps.abstract_state(self.config, self.mesh))

  def check_same_data(self, meta: dict) -> None:
    """Raises UserError where the data are not those that the checkpoint was trained on."""
    here = {
      'classes': list(self.dataset.class_names),
      'training images': self.dataset.num_train,
      'validation images': self.dataset.num_validation,
    }
    there = {
      'classes': meta['class_names'],
      'training images': meta['num_train'],
      'validation images': meta['num_validation'],
    }
    changed = [
      f'{key}: {there[key]} there, {here[key]} here' for key in here if here[key] != there[key]
    ]
    if changed:
      raise UserError(
        f'the images of {self.config.data.source} are not those that {self.workdir} was trained on '
        f'({"; ".join(changed)}): restore them, or choose another workdir'
      )

  def loop(
    self, state: steps.TrainState, batches: Iterator, told_to_stop: Callable[[int], bool]
  ) -> int:
    """Steps from `state.step` to the last, which it returns; logs, evaluations, checkpoints between."""
    choices, step = self.config.train, int(state.step)
    pending = deque()
    while step < self.total:
      self.profile.at(step, state)
      waiting = time.perf_counter()
      batch = next(batches)
      self.timer.waited(time.perf_counter() - waiting)
      rates, colour = self.step_inputs(step, state)
      state, loss = self.train_step(state, batch, rates, colour, self.statistics)
      step += 1
      self.timer.trained(choices.batch_size)
      pending.append(loss)
      if len(pending) > _IN_FLIGHT:
        pending.popleft().block_until_ready()
      done = step == self.total
      crossed = math.floor(self.epoch(step)) > math.floor(self.epoch(step - 1))
      evaluate_now = (self.evaluating or self.until) and (crossed or done)
      if step % choices.log_every == 0 or done:
        state = self.log(state, step)
      if choices.diagnose_every and step % choices.diagnose_every == 0:
        self.diagnose(step, state, batch, colour)
      errors = self.evaluate(state, step) if evaluate_now else None
      # An early end is no epoch: a longer run would not have looked then.
      if self.evaluating and evaluate_now and crossed:
        self.schedule = optim.after_evaluation(
          self.config.optim, self.schedule, errors['val/top1_error']
        )
      terminated = told_to_stop(step)
      if evaluate_now or done or terminated or step % choices.checkpoint_every == 0:
        self.save(state, step, errors)
      if self.has_learnt():
        logging.info('the error over all training images is down to %g %%', self.until)
        return step
      if terminated and not done:
        raise Preempted(
          f'stopped by SIGTERM at step {step}; a checkpoint is written: the same command resumes'
        )
    return step

  def has_learnt(self) -> bool:
    """Whether the error over all training images is as low as `train.until_train_error` asks."""
    return self.until > 0 and self.last.get('train_set/top1_error', math.inf) <= self.until

  def step_inputs(self, step: int, state: steps.TrainState) -> tuple:
    """The rates of every parameter and the strength of the colour noise at `step`, on the devices."""
    epoch, optimizer, augment = self.epoch(step), self.config.optim, self.config.augment
    rates = optim.rates(optimizer, step, epoch, step / self.total, self.schedule)
    self.lr, bias_rate = (rate * optim.batch_factor(self.config) for rate in rates)
    tree = optim.rate_tree(optimizer, state.params, self.lr, bias_rate, epoch)
    off = augment.colour_until and epoch >= augment.colour_until
    inputs = tree, 0.0 if off else augment.colour
    if inputs != self.rates_now[0]:  # they change a few times a run; a transfer a step is waste
      device = parallel.replicate(self.mesh, jax.tree.map(np.float32, inputs))
      self.rates_now = inputs, device
    return self.rates_now[1]

  def log(self, state: steps.TrainState, step: int) -> steps.TrainState:
    """Writes and resets the running sums; stops the run where they are not finite."""
    sums = {name: float(value) for name, value in jax.device_get(state.sums).items()}
    self.last_loss = sums['loss'] / sums['steps']
    if not math.isfinite(self.last_loss):
      self.fail(step)
    speed, waited = self.timer.lap()
    values = {
      'epoch': round(self.epoch(step), 4),
      'loss': self.last_loss,
      'train/top1_error': 100 * (1 - sums['correct'] / max(sums['examples'], 1)),
      'lr': self.lr,
      'images_per_s': round(speed, 2),
      'data_wait_frac': round(waited, 4),
    }
    self.metrics.write(step, values)
    self.progress.show(step, values)
    self.warn_if_stalled(step)
    return dataclasses.replace(state, sums=parallel.replicate(self.mesh, steps.zero_sums()))

  def diagnose(self, step: int, state: steps.TrainState, batch: dict, colour: jax.Array) -> None:
    """Writes numbers about each layer, of the network after `step` steps on the batch of the last."""
    began = time.perf_counter()
    found = jax.device_get(self.diagnostics(state, batch, colour, self.statistics))
    values = {
      f'layers/{layer}/{name}': float(value)
      for layer, numbers in found.items()
      for name, value in numbers.items()
    }
    self.metrics.write(step, {'epoch': round(self.epoch(step), 4), **values})
    self.timer.paused(time.perf_counter() - began)

  def warn_if_stalled(self, step: int) -> None:
    """Warns, once, when `stall_steps` have passed and the loss is still that of guessing."""
    chance, limit = math.log(self.config.model.num_classes), self.config.train.stall_steps
    due = limit and limit <= step < limit + self.config.train.log_every
    if due and self.last_loss is not None and self.last_loss > 0.98 * chance:
      logging.warning(_STALLED, chance, step)

  def evaluate(self, state: steps.TrainState, step: int) -> dict[str, float]:
    """Evaluates on the validation split, and where asked the training split; returns the values logged."""
    began = time.perf_counter()
    params = state.ema if self.config.eval.weights == 'ema' else state.params
    model = evaluate.Model(self.predict, params, state.batch_stats, self.statistics.mean_image, 1.0)
    self.last, splits = {}, {'val': 'validation'} if self.evaluating else {}
    self.progress.end()
    for room, split in (splits | ({'train_set': 'train'} if self.until else {})).items():
      errors = evaluate.errors_of([model], self.dataset, self.config, self.mesh, split)
      if not math.isfinite(errors['loss']):
        self.fail(step)
      self.last |= {f'{room}/{name}': value for name, value in errors.items() if value is not None}
      logging.info(
        'epoch %.2f: %s top-1 error %.2f %%', self.epoch(step), split, errors['top1_error']
      )
    self.metrics.write(step, {'epoch': round(self.epoch(step), 4), **self.last})
    self.timer.paused(time.perf_counter() - began)
    return self.last

  def save(self, state: steps.TrainState, step: int, errors: dict[str, float] | None) -> None:
    """Writes a checkpoint, once its numbers are known to be finite."""
    began = time.perf_counter()
    meta = {
      'config': config_lib.to_json(self.config),
      'class_names': list(self.dataset.class_names),
      'class_counts': [int(count) for count in self.dataset.train_counts],
      'num_train': self.dataset.num_train,
      'num_validation': self.dataset.num_validation,
      'epoch': self.epoch(step),
      'loss': self.last_loss,
      'schedule': self.schedule._asdict(),
      'validation': self.last,
    }
    if not self.checkpoints.save(state, self.statistics, meta, errors if self.evaluating else None):
      self.fail(step)
    self.timer.paused(time.perf_counter() - began)

  def fail(self, step: int) -> None:
    """Raises the error of a run whose numbers are no longer finite."""
    last = self.checkpoints.latest()
    kept = (
      'there is no checkpoint yet' if last is None else f'the checkpoint of step {last} is good'
    )
    raise RunError(
      f'the loss is not finite at step {step}: {kept}. Lower the rate (--config.optim.rate=) in a new '
      'workdir, or look for damaged images'
    )

  def summary(self, step: int) -> dict[str, object]:
    """The JSON that the mode ends with."""
    return {
      'step': step,
      'epoch': round(self.epoch(step), 4),
      'loss': self.last_loss,
      'top1_error': self.last.get('val/top1_error'),
      'checkpoint': str(self.checkpoints.folder / str(self.checkpoints.latest())),
      'skipped_images': len(self.dataset.skipped),
    }
