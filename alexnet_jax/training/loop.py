"""The training loop: from a config and a workdir to a trained network, resumable at any moment."""

from collections import deque
from collections.abc import Generator, Iterator
import contextlib
import dataclasses
import math
import pathlib
import time
from typing import Any

from absl import logging
import jax
from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np

from alexnet_jax import config as config_lib
from alexnet_jax import models, steps
from alexnet_jax.data import Dataset, open_dataset
from alexnet_jax.data.prefetch import prefetch
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.distributed import multihost, sharding
from alexnet_jax.errors import Preempted, RunError, UserError
from alexnet_jax.evaluation import evaluate
from alexnet_jax.steps import layer_stats, optimizer, schedules
from alexnet_jax.training import nan_debug
from alexnet_jax.training.fine_tuning import check_origin, copy_layers
from alexnet_jax.training.preemption import StopSignal
from alexnet_jax.utils import profiler
from alexnet_jax.workdir import lock as workdir_lib
from alexnet_jax.workdir.checkpoint import Checkpoints
from alexnet_jax.workdir.metrics import Metrics, Progress, Timer

_ON_DEVICE = 1  # batches there ahead of the step that takes them, and one on its way
_IN_FLIGHT = 1  # steps that may wait for the one that runs; SIGTERM waits for both
_SEARCH = 300  # seconds at most to look for where a loss that is not finite came from

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
    RunError: the loss is not finite, a checkpoint cannot be written, none that is there is whole, or too
      many images cannot be decoded.
    Preempted: SIGTERM came; a checkpoint has been written.
  """
  workdir = pathlib.Path(workdir)
  config_lib.validate(config)
  check_origin(config)
  models.layer_table(config.model)  # a config that no network can be made of fails before the data
  mesh = mesh_lib.make_mesh(config)
  with StopSignal() as stop:
    with multihost.primary_first('data'):
      dataset = open_dataset(config.data, config.seed)
    with contextlib.closing(dataset):
      config = resolve(config, dataset)
      workdir_lib.make(workdir)
      with workdir_lib.locked(workdir), Checkpoints(workdir, config.train.keep) as checkpoints:
        workdir_lib.claim(workdir, config, checkpoints.latest() is not None)
        dataset.preload()
        return _Run(config, workdir, dataset, mesh, checkpoints, stop).run()


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
      'classes: set --config.model.num_classes=0, which takes as many as there are'
    )
  if config.eval.weights == 'ema' and not config.optim.ema:
    raise UserError('config.eval.weights=ema: set config.optim.ema too, to 0.999, say')
  config.model.num_classes = classes
  config_lib.validate(config)
  return FrozenConfigDict(config)


class _Run:
  """One call of `train`: the pieces that the loop's phases share."""

  def __init__(self, config, workdir, dataset, mesh, checkpoints, stop):
    self.config, self.workdir, self.dataset, self.mesh = config, workdir, dataset, mesh
    self.checkpoints, self.stop = checkpoints, stop
    self.unevaluated = False  # whether SIGTERM came into the evaluation of the step
    self.losses = deque()  # (step, loss) of the steps that may not be done yet
    self.total = schedules.total_steps(config, dataset.num_train)
    self.schedule = schedules.ScheduleState()
    self.last = {}  # the latest validation errors, as logged
    self.last_loss: float | None = None
    self.rates_now: tuple[Any, Any] = (None, None)
    self.checksums = dataset.checksums()
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
    factor = schedules.batch_factor(self.config)
    if factor != 1:
      logging.info('batch %d: rates are multiplied by %g', self.config.train.batch_size, factor)
    quiet = not multihost.is_primary()  # of several processes one writes
    self.metrics = Metrics(self.workdir, first, self.config, quiet, self.unevaluated)
    self.train_step = steps.make_train_step(self.config, self.mesh)
    self.diagnostics = layer_stats.make_diagnostics_step(self.config, self.mesh)
    self.predict = steps.make_predict_step(self.config, self.mesh, self.config.eval.train_views)
    self.progress = Progress(self.total, first, quiet)
    self.timer = Timer()
    self.profile = profiler.Window(self.workdir, self.config.train.profile, quiet)
    try:
      if self.unevaluated:
        self.evaluate_again(state, first)
      if first >= self.total or self.has_learnt():
        logging.info('nothing to do: the run has ended already, at step %d', first)
        return self.summary(first)
      with contextlib.closing(self.batches(first)) as batches:
        last = self.loop(state, batches)
    finally:
      self.profile.close()
      self.progress.end()
      self.metrics.close()
    return self.summary(last)

  def batches(self, first: int) -> Generator[dict]:
    """The batches of the steps from `first` on, on the devices before they are asked for."""
    batch_size = self.config.train.batch_size
    rows = sharding.local_rows(self.mesh, batch_size)
    on_host = self.dataset.train_batches(first, batch_size, rows)  # ends with the data set
    return prefetch((sharding.shard_batch(self.mesh, batch) for batch in on_host), _ON_DEVICE)

  def start(self) -> steps.TrainState:
    """The state to go on from: the newest checkpoint's, or a fresh one."""
    step = self.checkpoints.latest()
    if step is None:
      if self.config.note:
        logging.warning(self.config.note)
      state = copy_layers(self.config, self.mesh, steps.init_state(self.config, self.mesh))
      alone = multihost.share() == (0, 1)  # several processes might not agree on a file
      statistics = self.dataset.statistics(
        self.workdir if alone else None, multihost.share(), multihost.add_up
      )
      self.statistics = sharding.replicate(self.mesh, statistics)
      return state
    meta = self.checkpoints.meta(step)
    workdir_lib.check_same_data(self.workdir, self.config, self.dataset, meta)
    self.schedule = schedules.ScheduleState(**meta['schedule'])
    self.last, self.last_loss = meta['validation'], meta['loss']
    self.unevaluated = meta.get('unevaluated', False)
    self.statistics = self.checkpoints.restore_statistics(
      step, self.mesh, self.config.data.canvas.size
    )
    logging.info('resuming %s at step %d of %d', self.workdir, step, self.total)
    return self.checkpoints.restore(step, steps.abstract_state(self.config, self.mesh))

  def loop(self, state: steps.TrainState, batches: Iterator) -> int:
    """Steps from `state.step` to the last, which it returns; logs, evaluations, checkpoints between."""
    choices, step = self.config.train, int(state.step)
    while step < self.total:
      self.profile.at(step, state)
      waiting = time.perf_counter()
      batch = next(batches)
      self.timer.waited(time.perf_counter() - waiting)
      rates, colour = self.step_inputs(step, state)
      state, loss = self.train_step(state, batch, rates, colour, self.statistics)
      step += 1
      self.stop.something_to_lose()
      self.timer.trained(choices.batch_size)
      self.losses.append((step, loss))
      self.settle(_IN_FLIGHT)
      done = step == self.total
      crossed = self.crossed(step)
      evaluate_now = (self.evaluating or self.until > 0) and (crossed or done)
      if step % choices.log_every == 0 or done:
        state = self.log(state, step)
      if choices.diagnose_every and step % choices.diagnose_every == 0:
        self.diagnose(step, state, batch, colour)
      errors = self.evaluate(state, step) if evaluate_now else None
      self.unevaluated = evaluate_now and errors is None
      terminated = self.stop.asked_at(step)
      if evaluate_now or done or terminated or step % choices.checkpoint_every == 0:
        self.save(state, step, errors)
      if self.has_learnt():
        logging.info('the error over all training images is down to %g %%', self.until)
        return step
      if terminated and (self.unevaluated or not done):
        self.checkpoints.wait()
        raise Preempted(
          f'stopped by SIGTERM at step {step}; a checkpoint is written: the same command resumes'
        )
    return step

  def has_learnt(self) -> bool:
    """Whether the error over all training images is as low as `train.until_train_error` asks."""
    return self.until > 0 and self.last.get('train_set/top1_error', math.inf) <= self.until

  def crossed(self, step: int) -> bool:
    """Whether an epoch ended with `step`."""
    return math.floor(self.epoch(step)) > math.floor(self.epoch(step - 1))

  def settle(self, left: int) -> None:
    """Waits until at most `left` steps are not done; stops the run where a loss is not finite."""
    while len(self.losses) > left:
      step, loss = self.losses.popleft()
      if not math.isfinite(float(loss)):
        self.fail(step)
    if self.checkpoints.failed():
      self.checkpoints.wait()

  def step_inputs(self, step: int, state: steps.TrainState) -> tuple:
    """The rates of every parameter and the strength of the colour noise at `step`, on the devices."""
    epoch, augment = self.epoch(step), self.config.augment
    rates = schedules.rates(self.config.optim, step, epoch, step / self.total, self.schedule)
    self.lr, bias_rate = (rate * schedules.batch_factor(self.config, epoch) for rate in rates)
    tree = optimizer.rate_tree(self.config.optim, state.params, self.lr, bias_rate, epoch)
    off = augment.colour_until and epoch >= augment.colour_until
    inputs = tree, 0.0 if off else augment.colour
    if inputs != self.rates_now[0]:  # they change a few times a run; a transfer a step is waste
      device = sharding.replicate(self.mesh, jax.tree.map(np.float32, inputs))
      self.rates_now = inputs, device
    return self.rates_now[1]

  def log(self, state: steps.TrainState, step: int) -> steps.TrainState:
    """Writes and resets the running sums; stops the run where they are not finite."""
    self.settle(0)
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
    return dataclasses.replace(state, sums=sharding.replicate(self.mesh, steps.zero_sums()))

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

  def evaluate(self, state: steps.TrainState, step: int) -> dict[str, float] | None:
    """Evaluates on the validation split, and where asked on the training split; lets the schedule know.

    Returns:
      The values logged; None where SIGTERM came into it.
    """
    began = time.perf_counter()
    params = state.ema if self.config.eval.weights == 'ema' else state.params
    model = evaluate.Model(self.predict, params, state.batch_stats, self.statistics.mean_image, 1.0)
    splits = {'val': 'validation'} if self.evaluating else {}
    if self.until:
      splits['train_set'] = 'train'
    found: dict[str, float] = {}
    for room, split in splits.items():
      asked = self.stop.asked
      errors = evaluate.errors_of([model], self.dataset, self.config, self.mesh, split, asked)
      if errors is None:
        return None
      if not math.isfinite(errors['loss']):
        self.fail(step)
      found |= {f'{room}/{name}': value for name, value in errors.items() if value is not None}
    self.last = found
    self.metrics.write(step, {'epoch': round(self.epoch(step), 4), **found})
    self.progress.end()
    for room, split in splits.items():
      top1 = found[f'{room}/top1_error']
      logging.info('epoch %.2f: %s top-1 error %.2f %%', self.epoch(step), split, top1)
    if self.evaluating and self.crossed(
      step
    ):  # an early end is no epoch: a longer run would not look
      top1 = found['val/top1_error']
      self.schedule = schedules.after_evaluation(self.config.optim, self.schedule, top1)
    self.timer.paused(time.perf_counter() - began)
    return self.last

  def evaluate_again(self, state: steps.TrainState, step: int) -> None:
    """Makes the evaluation that SIGTERM came into, and adds what it finds to the checkpoint of `step`."""
    errors = self.evaluate(state, step)
    if errors is None:
      raise Preempted(f'stopped by SIGTERM at step {step}: the same command resumes')
    self.unevaluated = False
    self.metrics.sync()
    self.checkpoints.amend(step, self.meta(step), errors)

  def save(self, state: steps.TrainState, step: int, errors: dict[str, float] | None) -> None:
    """Begins to write a checkpoint, once its numbers are known to be finite."""
    began = time.perf_counter()
    self.metrics.sync()
    if not self.checkpoints.save(state, self.statistics, self.meta(step), errors):
      self.fail(step)
    self.timer.paused(time.perf_counter() - began)

  def meta(self, step: int) -> dict[str, object]:
    """What a checkpoint holds beside arrays, as JSON."""
    return {
      'config': config_lib.to_json(self.config),
      'class_names': list(self.dataset.class_names),
      'class_counts': [int(count) for count in self.dataset.train_counts],
      'num_train': self.dataset.num_train,
      'num_validation': self.dataset.num_validation,
      'epoch': self.epoch(step),
      'loss': self.last_loss,
      'schedule': self.schedule._asdict(),
      'validation': self.last,
      'unevaluated': self.unevaluated,
      'checksums': self.checksums,
    }

  def fail(self, step: int) -> None:
    """Raises the error of a run whose numbers are no longer finite, after a search for their origin."""
    self.losses.clear()
    last = self.checkpoints.latest()
    kept = (
      'there is no checkpoint yet' if last is None else f'the checkpoint of step {last} is good'
    )
    raise RunError(f'the loss is not finite at step {step} ({kept}): {self.origin(last, step)}')

  def origin(self, last: int | None, step: int) -> str:
    """Where the numbers that are not finite came from, in words."""
    again = step - (last or 0)
    affordable = multihost.from_primary(int(_SEARCH / self.timer.seconds_a_step()))
    if again > affordable:
      too_far = f'where it began was not looked for, as the last checkpoint is {again} steps back'
      return f'{too_far}; {nan_debug.REMEDY}'
    logging.info('the loss is not finite: looking for the origin, %d steps once more', again)
    self.stop.nothing_to_lose()
    state = self.start()
    with contextlib.closing(self.batches(last or 0)) as batches:
      return nan_debug.find(
        nan_debug.make_watch_step(self.config, self.mesh),
        self.train_step,
        self.step_inputs,
        state,
        step,
        batches,
        self.statistics,
        self.dataset.train_name,
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
