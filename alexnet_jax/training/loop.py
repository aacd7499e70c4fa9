"""The training loop: from a config and a workdir to a trained network; it resumes from any checkpoint."""

import contextlib
import pathlib
from typing import NamedTuple

from absl import logging
import jax
from ml_collections import ConfigDict
import numpy as np

from alexnet_jax import config as config_lib
from alexnet_jax import models, steps
from alexnet_jax.data import Dataset, Statistics, open_dataset
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.distributed import multihost
from alexnet_jax.errors import Preempted, RunError, UserError
from alexnet_jax.steps import schedules
from alexnet_jax.training import hooks as hooks_lib
from alexnet_jax.training import nan_debug
from alexnet_jax.training.fine_tuning import check_origin
from alexnet_jax.training.pending_losses import NonFiniteError, PendingLosses
from alexnet_jax.training.preemption import StopSignal
from alexnet_jax.training.run import Record, Run, resolve, start
from alexnet_jax.training.step_inputs import StepInputs
from alexnet_jax.utils import profiler
from alexnet_jax.utils.optional_import import import_module
from alexnet_jax.workdir import lock, run_config, sessions
from alexnet_jax.workdir.checkpoint import Checkpoints

_IN_FLIGHT = 1  # unfinished steps besides the newest; SIGTERM has to wait for all of them


def train(
  config: ConfigDict, workdir: str | pathlib.Path, is_followed: bool = False
) -> dict[str, object]:
  """Trains the run of `config` in `workdir`, from its newest checkpoint if there is one.

  Args:
    config: the whole config.
    workdir: the folder of the run.
    is_followed: whether another run follows, so that SIGTERM at the end of this one raises `Preempted` too.

  Returns:
    `{'step', 'epoch', 'loss', 'top1_error', 'best_error', 'best_step', 'checkpoint', 'skipped_images'}`: the
    last loss and validation error (in per cent) that were logged, the lowest validation error and its step,
    the path of the newest checkpoint, and the number of training images that this process could not decode
    since it was started. If validation images were left out, `dropped_images` holds their names.

  Raises:
    UserError: the config or the data cannot be used, or the workdir holds another run.
    RunError: the loss is not finite, a checkpoint cannot be written, all checkpoints are damaged, or too
      many images cannot be decoded.
    Preempted: SIGTERM arrived; a checkpoint has been written.
  """
  workdir = pathlib.Path(workdir)
  config_lib.validate(config)
  check_origin(config)
  if config.log.wandb and multihost.is_primary():
    import_module('wandb', 'wandb', 'config.log.wandb')
  models.layer_table(config.model)  # an impossible network is reported before the data are read
  run_config.check_before_data(workdir, config)
  mesh = mesh_lib.make_mesh(config)
  with StopSignal() as stop:
    with multihost.primary_first('data'):
      dataset = open_dataset(config.data, config.seed)
    with contextlib.closing(dataset):
      _check_same_images(dataset)
      resolved = resolve(config, dataset)
      lock.make_workdir(workdir)
      with lock.locked(workdir), Checkpoints(workdir, resolved.train.keep) as checkpoints:
        step = checkpoints.latest()
        run_config.check(workdir, resolved, step)
        dataset.preload(multihost.share(), is_new=step is None)
        if step is not None:
          run_config.check_checkpoint(workdir, resolved, dataset, checkpoints.meta(step))
        # Later modes read the images that config.json names, so a refused command must leave it as it was.
        run_config.write(workdir, resolved)
        result = _train(Run(resolved, workdir, dataset, mesh, checkpoints, stop))
        if is_followed and stop.requested():
          raise Preempted('stopped by SIGTERM between two runs: the same command resumes them')
        return result


def _check_same_images(dataset: Dataset) -> None:
  """Raises UserError if the processes of a run see different images."""
  seen = repr((dataset.class_names, dataset.num_validation)) + dataset.train_labels.tobytes().hex()
  if not multihost.same_everywhere(seen):
    raise UserError(
      'the numbers, labels or classes of the images differ between the processes: give all of them the same '
      'images, best on a file system that they share'
    )


class _Hooks(NamedTuple):
  """The hooks, in the order in which the loop calls them."""

  profile: profiler.Window
  log: hooks_lib.Log
  diagnose: hooks_lib.Diagnose
  evaluate: hooks_lib.Evaluate
  save: hooks_lib.Save

  def due(self, step: int) -> bool:
    """Returns whether a hook other than the profile is due after `step` steps."""
    return any(hook.due(step) for hook in (self.log, self.diagnose, self.evaluate, self.save))


def _train(run: Run) -> dict[str, object]:
  """Restores or initialises the state, trains, and returns the summary."""
  state, statistics, record = start(run)
  step = int(state.step)
  _log_start(run, state)
  train_step, inputs = steps.make_train_step(run.config, run.mesh), StepInputs(run)
  quiet = not multihost.is_primary()
  with (
    hooks_lib.Outputs(run, step, record.unevaluated) as outputs,
    contextlib.closing(profiler.Window(run.workdir, run.config.train.profile, quiet)) as profile,
  ):
    hooks = _Hooks(
      profile,
      hooks_lib.Log(run, record, outputs),
      hooks_lib.Diagnose(run, statistics, outputs),
      hooks_lib.Evaluate(run, statistics, record, outputs),
      hooks_lib.Save(run, statistics, record, outputs),
    )
    try:
      if record.unevaluated:
        _repeat_evaluation(run, state, record, hooks)
      if step >= run.total_steps or record.reason_to_end(run.config.train):
        logging.info('nothing to do: the run has ended already, at step %d', step)
      else:
        with sessions.recorded(run.workdir, step):
          step = _loop(run, state, statistics, record, train_step, inputs, hooks, outputs)
    except NonFiniteError as error:
      seconds = outputs.timer.seconds_per_step()
      raise RunError(
        nan_debug.explain(run, train_step, inputs, statistics, error.step, seconds)
      ) from None
  return _summary(run, record, step)


def _loop(
  run: Run,
  state: steps.TrainState,
  statistics: Statistics,
  record: Record,
  train_step: jax.stages.Wrapped,
  inputs: StepInputs,
  hooks: _Hooks,
  outputs: hooks_lib.Outputs,
) -> int:
  """Trains from `state.step` to the last step, whose number it returns.

  Raises:
    NonFiniteError: a loss, or a number of the state, is not finite.
    Preempted: SIGTERM arrived; a checkpoint has been written.
  """
  step, pending, timer = int(state.step), PendingLosses(), outputs.timer
  first = step + 1
  with contextlib.closing(run.batches(step)) as batches:
    while step < run.total_steps:
      with outputs.untimed():
        hooks.profile.at(step, state)
      batch = timer.wait_for(batches)
      rates, colour, learning_rate = inputs.at(step, record.schedule)
      state, loss = train_step(state, batch, rates, colour, statistics)
      step += 1
      run.stop.defer_stop()
      timer.trained(run.config.train.batch_size)
      pending.add(step, loss)
      # A hook that is due must not be charged for a step that is still running.
      pending.wait(0 if step == first or hooks.due(step) else _IN_FLIGHT)
      if step == first:
        timer.started()
      run.checkpoints.raise_failure()

      if hooks.log.due(step):
        state = hooks.log(step, state, learning_rate)
      if hooks.diagnose.due(step):
        hooks.diagnose(step, state, batch, colour)
      evaluate_now = hooks.evaluate.due(step)
      errors = hooks.evaluate(step, state) if evaluate_now else None
      record.unevaluated = evaluate_now and errors is None
      stopping = run.stop.requested_after_step()
      if evaluate_now or stopping or hooks.save.due(step):
        hooks.save(step, state, errors)

      if reason := record.reason_to_end(run.config.train):
        logging.info('%s: training ends', reason)
        return step
      if stopping and (record.unevaluated or step < run.total_steps):
        run.checkpoints.wait()
        # Process 0 alone seals the checkpoint. If the others left before, it would count them as lost.
        multihost.wait_for_all('checkpoint sealed')
        raise Preempted(
          f'stopped by SIGTERM at step {step} after writing a checkpoint: the same command resumes the run'
        )
  return step


def _repeat_evaluation(run: Run, state: steps.TrainState, record: Record, hooks: _Hooks) -> None:
  """Repeats the evaluation that SIGTERM interrupted, and adds its errors to the checkpoint."""
  step = int(state.step)
  errors = hooks.evaluate(step, state)
  assert errors is not None  # before the first step, SIGTERM ends the process at once
  record.unevaluated = False
  hooks.save.amend(step, errors)


def _log_start(run: Run, state: steps.TrainState) -> None:
  logging.info(
    '%s: %d training and %d validation images of %d classes; %d parameters; '
    '%d steps on %d %s device(s), mesh %s',
    run.config.data.source,
    run.dataset.num_train,
    run.dataset.num_validation,
    len(run.dataset.class_names),
    sum(leaf.size for leaf in jax.tree.leaves(state.params)),
    run.total_steps,
    run.mesh.size,
    run.mesh.devices.flat[0].platform,
    tuple(run.mesh.shape.values()),
  )
  _warn_of_missing_classes(run)
  if (weights := run.class_weights) is not None:
    logging.info(
      'the losses of the classes have weights from %.3g to %.3g', weights.min(), weights.max()
    )
  factor = schedules.batch_factor(run.config)
  if factor != 1:
    logging.info(
      'batch size %d: learning rates are multiplied by %g', run.config.train.batch_size, factor
    )
  augment = run.config.augment
  if (augment.crop, augment.mean, augment.mean_at) == ('resized', 'image', 'crop'):
    logging.warning(
      'config.augment.mean_at=crop has no effect with config.augment.crop=resized: the central part of the '
      'mean image is subtracted; config.augment.mean=channel subtracts one value a channel'
    )
  if factor == 1 and run.config.optim.warmup:
    logging.warning(
      'config.optim.warmup=%g has no effect, because config.optim.scaling does not change the rates',
      run.config.optim.warmup,
    )


def _warn_of_missing_classes(run: Run) -> None:
  """Warns if the validation images lack classes, about which their error says nothing."""
  labels = run.dataset.validation_labels
  if labels is None:
    return
  names = run.dataset.class_names
  missing = [names[k] for k in np.setdiff1d(np.arange(len(names)), labels)]
  if missing:
    shown = ', '.join(missing[:5]) + (', ...' if len(missing) > 5 else '')
    logging.warning(
      '%d of %d classes have no validation image (%s): the validation error says nothing about them',
      len(missing),
      len(names),
      shown,
    )


def _summary(run: Run, record: Record, step: int) -> dict[str, object]:
  """Returns the JSON object that `--mode=train` prints at its end."""
  checkpoints = run.checkpoints
  if record.best_error is not None:
    logging.info(
      'the lowest validation top-1 error is %.2f %%, at step %d',
      record.best_error,
      record.best_step,
    )
  dropped = {'dropped_images': list(run.dataset.dropped)} if run.dataset.dropped else {}
  return {
    'step': step,
    'epoch': round(run.epoch(step), 4),
    'loss': record.loss,
    'top1_error': record.validation.get('val/top1_error'),
    'best_error': record.best_error,
    'best_step': record.best_step,
    'checkpoint': str(checkpoints.folder / str(checkpoints.latest())),
    'skipped_images': len(run.dataset.skipped),
    **dropped,
  }
