"""The hooks of the training loop, which run between steps: log, diagnose layers, evaluate and save.

Each hook is a small object. `due(step)` says whether it runs after step `step` (counted from 1); a call runs
it. Hooks write to `Outputs` and update the `Record` that every checkpoint stores.
"""

import contextlib
import dataclasses
import math
import time
from typing import Any

from absl import logging
import jax

from alexnet_jax import config as config_lib
from alexnet_jax import steps
from alexnet_jax.data import Statistics
from alexnet_jax.distributed import multihost, sharding
from alexnet_jax.evaluation import evaluate, loading
from alexnet_jax.steps import layer_stats, schedules
from alexnet_jax.training.pending_losses import NonFiniteError
from alexnet_jax.training.run import Record, Run
from alexnet_jax.workdir.metrics import Metrics, Progress, Timer

_STALLED = (
  'the loss is still ln(classes) = %.3f after %d steps: the network has not begun to learn. Possible '
  'remedies: the recipe `original` (wider initial weights in conv3-conv5), --config.model.init=torch, '
  'smaller biases as in the recipe `caffe` (0.1), a lower rate (--config.optim.rate=), another seed, labels '
  'that match the images, or more steps: others report that with 1000 classes learning began after 5,000 to '
  '15,000 steps.'
)
_CHANCE_SHARE = 0.98  # a loss above this share of ln(classes) counts as guessing


class Outputs:
  """The metrics file, the progress line and the timer of one run; use as a context manager."""

  def __init__(self, run: Run, first: int, unevaluated: bool):
    quiet = not multihost.is_primary()
    self.metrics = Metrics(run.workdir, first, run.config, quiet, unevaluated)
    self.progress = Progress(run.total_steps, quiet)
    self.timer = Timer()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.progress.end()
    self.metrics.close()

  @contextlib.contextmanager
  def untimed(self):
    """Excludes the time of the block from images per second; not if the block raises."""
    began = time.perf_counter()
    yield
    self.timer.paused(time.perf_counter() - began)


class Log:
  """Writes the running sums to metrics.jsonl and to the progress line, and resets them."""

  def __init__(self, run: Run, record: Record, outputs: Outputs):
    self._run, self._record, self._outputs = run, record, outputs

  def due(self, step: int) -> bool:
    """Returns whether to log: after every `train.log_every` steps and after the last one."""
    return step % self._run.config.train.log_every == 0 or step == self._run.total_steps

  def __call__(self, step: int, state: steps.TrainState, learning_rate: float) -> steps.TrainState:
    """Writes one line; returns the state with the sums at zero.

    Raises:
      NonFiniteError: the mean loss is not finite.
    """
    sums = {name: float(value) for name, value in jax.device_get(state.sums).items()}
    loss = sums['loss'] / sums['steps']
    self._record.loss = loss
    if not math.isfinite(loss):
      raise NonFiniteError(step)
    images_per_s, data_wait = self._outputs.timer.lap()
    values = {
      'epoch': round(self._run.epoch(step), 4),
      'loss': loss,
      'train/top1_error': 100 * (1 - sums['correct'] / max(sums['examples'], 1)),
      'lr': learning_rate,
      'images_per_s': round(images_per_s, 2),
      'data_wait_frac': round(data_wait, 4),
    }
    self._outputs.metrics.write(step, values)
    self._outputs.progress.show(step, values)
    self._warn_if_stalled(step, loss)
    return dataclasses.replace(state, sums=sharding.replicate(self._run.mesh, steps.zero_sums()))

  def _warn_if_stalled(self, step: int, loss: float) -> None:
    """Warns once, after `train.stall_steps` steps, if the loss is still that of guessing."""
    chance, options = math.log(self._run.config.model.num_classes), self._run.config.train
    first_line = options.stall_steps <= step < options.stall_steps + options.log_every
    if options.stall_steps and first_line and loss > _CHANCE_SHARE * chance:
      logging.warning(_STALLED, chance, step)


class Diagnose:
  """Writes statistics of every layer (`steps.layer_stats`) to metrics.jsonl."""

  def __init__(self, run: Run, statistics: Statistics, outputs: Outputs):
    self._run, self._statistics, self._outputs = run, statistics, outputs
    self._diagnostics = layer_stats.make_diagnostics_step(run.config, run.mesh)

  def due(self, step: int) -> bool:
    """Returns whether to measure: after every `train.diagnose_every` steps; never if that is 0."""
    every = self._run.config.train.diagnose_every
    return every > 0 and step % every == 0

  def __call__(self, step: int, state: steps.TrainState, batch: dict, colour: jax.Array) -> None:
    """Measures the network after `step` steps on the batch of the last of them."""
    with self._outputs.untimed():
      found = jax.device_get(self._diagnostics(state, batch, colour, self._statistics))
      values = {
        f'layers/{layer}/{name}': float(value)
        for layer, numbers in found.items()
        for name, value in numbers.items()
      }
      epoch = round(self._run.epoch(step), 4)
      self._outputs.metrics.write(step, {'epoch': epoch, **values})


class Evaluate:
  """Measures the errors on the validation split, and on the training split if the run ends by that error."""

  def __init__(self, run: Run, statistics: Statistics, record: Record, outputs: Outputs):
    self._run, self._statistics, self._record, self._outputs = run, statistics, record, outputs
    config = run.config
    self._predict = steps.make_predict_step(config, run.mesh, config.eval.train_views)
    self._validates = config.train.evaluate and run.dataset.num_validation > 0
    if config.train.evaluate and not self._validates:
      logging.warning(
        'there are no validation images: evaluation is skipped, and the run reports no error'
      )
    if not self._validates and (config.optim.schedule == 'plateau' or config.train.early_stopping):
      logging.warning(
        'nothing is evaluated: config.optim.schedule=plateau and config.train.early_stopping have no '
        'effect'
      )
    self._splits = {'val': 'validation'} if self._validates else {}
    if config.train.until_train_error > 0:
      self._splits['train_set'] = 'train'

  def due(self, step: int) -> bool:
    """Returns whether to evaluate: after each epoch and the last step, if there is a split to evaluate."""
    at_end = self._run.epoch_ended(step) or step == self._run.total_steps
    return bool(self._splits) and at_end

  def __call__(self, step: int, state: steps.TrainState) -> dict[str, float] | None:
    """Evaluates, writes the errors and updates the plateau rule.

    Returns:
      The values written, such as `val/top1_error` in per cent; None if SIGTERM interrupted the evaluation.

    Raises:
      NonFiniteError: the loss on a split is not finite.
    """
    with self._outputs.untimed():
      errors = self._errors(step, state)
      if errors is None:
        return None
      epoch = self._run.epoch(step)
      self._record.validation = errors
      self._outputs.metrics.write(step, {'epoch': round(epoch, 4), **errors})
      self._outputs.progress.end()
      if self._validates:
        counts = self._run.epoch_ended(step)
        self._record.add_error(step, errors['val/top1_error'], counts)
      for prefix, split in self._splits.items():
        top1 = errors[f'{prefix}/top1_error']
        logging.info('epoch %.2f: %s top-1 error %.2f %%', epoch, split, top1)
      self._update_schedule(step, errors)
    return errors

  def _errors(self, step: int, state: steps.TrainState) -> dict[str, float] | None:
    run = self._run
    params = state.ema if run.config.eval.weights == 'ema' else state.params
    mean_image: Any = self._statistics.mean_image
    model = loading.Model(self._predict, params, state.batch_stats, mean_image, 1.0)
    found: dict[str, float] = {}
    for prefix, split in self._splits.items():
      errors = evaluate.errors_of(
        [model], run.dataset, run.config, run.mesh, split, run.stop.requested
      )
      if errors is None:
        return None
      if not math.isfinite(errors['loss']):
        raise NonFiniteError(step)
      found |= {f'{prefix}/{name}': value for name, value in errors.items() if value is not None}
    return found

  def _update_schedule(self, step: int, errors: dict[str, float]) -> None:
    """Counts the evaluation in the plateau rule if `step` ended an epoch.

    A run that ends within an epoch evaluates there too; a longer run would not, so the rule ignores it.
    """
    if self._validates and self._run.epoch_ended(step):
      self._record.schedule = schedules.after_evaluation(
        self._run.config.optim, self._record.schedule, errors['val/top1_error']
      )


class Save:
  """Writes checkpoints."""

  def __init__(self, run: Run, statistics: Statistics, record: Record, outputs: Outputs):
    self._run, self._statistics, self._record, self._outputs = run, statistics, record, outputs
    self._checksums = run.dataset.checksums()

  def due(self, step: int) -> bool:
    """Returns whether to save: after every `train.checkpoint_every` steps and after the last one."""
    return step % self._run.config.train.checkpoint_every == 0 or step == self._run.total_steps

  def __call__(self, step: int, state: steps.TrainState, errors: dict[str, float] | None) -> None:
    """Starts to write a checkpoint; `errors` are those of an evaluation at this step, if there was one.

    Raises:
      NonFiniteError: the state holds a number that is not finite; nothing is written.
      RunError: the checkpoint before this one could not be written.
    """
    with self._outputs.untimed():
      self._outputs.metrics.sync()
      if not self._run.checkpoints.save(state, self._statistics, self._meta(step), errors):
        raise NonFiniteError(step)

  def amend(self, step: int, errors: dict[str, float]) -> None:
    """Adds the errors of a late evaluation to the checkpoint of `step`, which is complete."""
    self._outputs.metrics.sync()
    self._run.checkpoints.amend(step, self._meta(step), errors)

  def _meta(self, step: int) -> dict[str, object]:
    """Returns what a checkpoint stores as JSON, beside its arrays."""
    dataset = self._run.dataset
    return {
      'config': config_lib.to_json(self._run.config),
      'class_names': list(dataset.class_names),
      'class_titles': dataset.class_titles and list(dataset.class_titles),
      'class_counts': [int(count) for count in dataset.train_counts],
      'num_train': dataset.num_train,
      'num_validation': dataset.num_validation,
      'form': dataset.form,
      'epoch': self._run.epoch(step),
      'loss': self._record.loss,
      'schedule': self._record.schedule._asdict(),
      'validation': self._record.validation,
      'unevaluated': self._record.unevaluated,
      'best': self._record.best(),
      'checksums': self._checksums,
    }
