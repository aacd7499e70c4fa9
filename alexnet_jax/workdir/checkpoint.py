"""Checkpoints of a run: the one file that knows Orbax.

Each holds items of Orbax's under `checkpoints/STEP/`: `params` (parameters and batch statistics), `optimizer`
(step, velocity, running sums), `statistics` (mean image, colour eigenvectors and deviations) and, where an
average of the parameters is kept, `ema`; and `manifest.json`, written last, with digests of all files and the
rest of the state (config, class names, schedule, validation errors).

Saving goes on while the next steps run: the state is copied on the devices, Orbax writes it to
`partial-STEP`, which is synced, sealed and renamed; only then are older checkpoints removed. Loading verifies
the digests. A damaged checkpoint is renamed to `STEP.damaged`, and the one before it is used. The latest few
and the best are kept.
"""

from collections.abc import Mapping
import os
import pathlib
import shutil
import threading
import time

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import FrozenConfigDict
import numpy as np
import orbax.checkpoint as ocp

from alexnet_jax import config as config_lib
from alexnet_jax import steps
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.distributed import multihost
from alexnet_jax.errors import RunError, UserError
from alexnet_jax.utils import atomic_io

FOLDER = 'checkpoints'
_ERROR = 'val/top1_error'
_PARTIAL, _DAMAGED = 'partial-', '.damaged'
_NONE, _NONE_WHOLE = -1, -2  # in place of a step


@jax.jit
def _snapshot(tree):
  """A copy, which outlives the donation of `tree` to the next step, and whether all of it is finite."""
  return jax.tree.map(jnp.copy, tree), steps.all_finite(tree)


class Checkpoints:
  """The checkpoints of one workdir; use as a context manager, which ends when the last one is written.

  Of several processes all call the same methods; the first one seals, verifies and removes.

  Args:
    workdir: of the run.
    keep: how many of the latest to keep, beside the best.
    read_only: for evaluation: nothing is created, renamed or removed.
  """

  def __init__(self, workdir: str | pathlib.Path, keep: int = 2, read_only: bool = False):
    self.folder = pathlib.Path(workdir).absolute() / FOLDER
    self._keep, self._read_only = keep, read_only
    if read_only and not self.folder.is_dir():
      raise UserError(f'{workdir} holds no checkpoints: train there first, or name another workdir')
    if not read_only and multihost.is_primary():
      self.folder.mkdir(parents=True, exist_ok=True)
      for left in self.folder.glob(f'{_PARTIAL}*'):  # by a run that was killed
        shutil.rmtree(left)
    handler = ocp.CompositeCheckpointHandler('params', 'ema', 'optimizer', 'statistics')
    # Where folders that Orbax makes in the background cannot be made, it waits for them forever.
    options = ocp.options.AsyncOptions(create_directories_asynchronously=False)
    self._orbax = ocp.AsyncCheckpointer(handler, async_options=options)
    self._saving: threading.Thread | None = None
    self._failure: BaseException | None = None
    self._latest: int | None = None
    self._looked = False

  def __enter__(self):
    return self

  def __exit__(self, kind, *_):
    try:
      self.wait()
    except Exception as error:
      if kind is None:
        raise
      logging.error('%s', error)  # beside what ended the run
    finally:
      self._orbax.close()

  def latest(self) -> int | None:
    """The step of the newest checkpoint that is whole, None if there is none yet.

    Raises:
      RunError: there are some, but none is whole.
    """
    self.wait()
    if not self._looked:
      found = self._newest_whole() if multihost.is_primary() else _NONE
      found = multihost.from_primary(found)
      if found == _NONE_WHOLE:
        raise RunError(
          f'no checkpoint of {self.folder} is whole: put back a copy of one, as a folder named by its step, '
          'or start again in a new workdir'
        )
      self._latest, self._looked = None if found == _NONE else found, True
    return self._latest

  def best(self) -> int | None:
    """The step of the lowest validation error, of equals the latest; the newest without any."""
    self.wait()
    step = _NONE
    if multihost.is_primary():
      ranked = self._best(self._steps())
      step = next((s for s in ranked if self._is_whole(s)), _NONE)
    step = multihost.from_primary(step)
    return self.latest() if step == _NONE else step

  def choose(self, which: str) -> int:
    """The step that `--checkpoint=best|latest|STEP` means.

    Raises:
      UserError: there is no such checkpoint.
      RunError: none is whole, or the one that was named is not.
    """
    steps_there = self._steps()
    if which in ('best', 'latest'):
      step = self.best() if which == 'best' else self.latest()
      if step is None:
        raise UserError(f'{self.folder.parent} holds no checkpoint: train there first')
      return step
    if not which.isdigit() or int(which) not in steps_there:
      raise UserError(
        f'--checkpoint={which}: choose best, latest or a step of {", ".join(map(str, steps_there))}'
      )
    whole = self._is_whole(int(which)) if multihost.is_primary() else True
    if not multihost.from_primary(int(whole)):
      raise RunError(
        f'the checkpoint of step {which} is damaged: choose another one of {self.folder}'
      )
    return int(which)

  def save(
    self,
    state: steps.TrainState,
    statistics: Statistics,
    meta: Mapping,
    metrics: Mapping[str, float] | None = None,
  ) -> bool:
    """Begins to save `state` under its step, unless it holds a number that is not finite.

    It first waits for the save before it. When this returns, the state may be donated.

    Args:
      state: on its devices.
      statistics: of the training images.
      meta: JSON-able.
      metrics: of the evaluation at this step, if there was one; ranks the best checkpoint.

    Returns:
      Whether all numbers were finite.

    Raises:
      RunError: the save before this one failed.
    """
    self.wait()
    copy, finite = _snapshot(state)
    if not finite:
      return False
    step, began = int(copy.step), time.perf_counter()
    partial = self.folder / f'{_PARTIAL}{step}'
    optimizer = {'step': copy.step, 'opt_state': copy.opt_state, 'sums': copy.sums}
    average = {'ema': ocp.args.StandardSave(copy.ema)} if copy.ema else {}
    items = ocp.args.Composite(
      params=ocp.args.StandardSave({'params': copy.params, 'batch_stats': copy.batch_stats}),
      optimizer=ocp.args.StandardSave(optimizer),
      statistics=ocp.args.StandardSave(jax.tree.map(np.asarray, statistics._asdict())),
      **average,
    )
    facts = {'step': step, 'meta': dict(meta), 'metrics': dict(metrics or {})}
    try:
      self._orbax.save(partial, items, force=True)
    except Exception as error:
      raise self._cannot_write(step, error) from error
    self._saving = threading.Thread(
      target=self._finish, args=(partial, step, facts, began), name='checkpoint'
    )
    self._saving.start()
    return True

  def amend(self, step: int, meta: Mapping, metrics: Mapping[str, float]) -> None:
    """Adds to the checkpoint of `step` what an evaluation found that was not finished when it was saved."""
    self.wait()
    if multihost.is_primary():
      atomic_io.reseal(
        self.folder / str(step), {'step': step, 'meta': dict(meta), 'metrics': dict(metrics)}
      )

  def wait(self) -> None:
    """Returns when the save that was begun is complete.

    Raises:
      RunError: it failed; the checkpoints before it are as they were.
    """
    if self._saving is not None:
      self._saving.join()
      self._saving = None
    if self._failure is not None:
      error, self._failure = self._failure, None
      raise error

  def failed(self) -> bool:
    """Whether a save has failed, which `wait` will tell; does not wait."""
    return self._failure is not None

  def meta(self, step: int) -> dict:
    """The JSON part of a checkpoint, its `config` as a frozen config."""
    try:
      meta = atomic_io.facts(self.folder / str(step))['meta']
    except ValueError as error:
      raise self._damaged(step, error) from None
    return meta | {'config': FrozenConfigDict(config_lib.from_json(meta['config']))}

  def restore(self, step: int, abstract: steps.TrainState) -> steps.TrainState:
    """The whole train state, laid out as `abstract` says (`steps.abstract_state`)."""
    params = {'params': abstract.params, 'batch_stats': abstract.batch_stats}
    optimizer = {'step': abstract.step, 'opt_state': abstract.opt_state, 'sums': abstract.sums}
    average = {'ema': ocp.args.StandardRestore(abstract.ema)} if abstract.ema else {}
    items = self._restore(
      step,
      params=ocp.args.StandardRestore(params),
      optimizer=ocp.args.StandardRestore(optimizer),
      **average,
    )
    return steps.TrainState(**items['params'], **items['optimizer'], ema=items.get('ema', {}))

  def restore_params(
    self, step: int, abstract: steps.TrainState, weights: str = 'last'
  ) -> tuple[dict, dict]:
    """Parameters, `weights` (last or ema) as `config.eval.weights` means it, and batch statistics."""
    wanted = {'params': abstract.params, 'batch_stats': abstract.batch_stats}
    item = self._restore(step, params=ocp.args.StandardRestore(wanted))['params']
    if weights == 'ema':
      average = self._restore(step, ema=ocp.args.StandardRestore(abstract.ema))['ema']
      return average, item['batch_stats']
    return item['params'], item['batch_stats']

  def restore_statistics(self, step: int, mesh: Mesh, size: int) -> Statistics:
    """The statistics of the training images, on every device of `mesh`; `size` is the canvas's."""
    shapes = {'mean_image': (size, size, 3), 'eigenvectors': (3, 3), 'deviations': (3,)}
    everywhere = NamedSharding(mesh, P())
    abstract = {
      name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=everywhere)
      for name, shape in shapes.items()
    }
    item = self._restore(step, statistics=ocp.args.StandardRestore(abstract))['statistics']
    return Statistics(**item)

  def _restore(self, step: int, **items) -> dict:
    try:
      return self._orbax.restore(self.folder / str(step), ocp.args.Composite(**items))
    except (KeyError, ValueError, OSError) as error:
      raise self._damaged(step, error) from None

  def _damaged(self, step: int, error: Exception) -> UserError:
    return UserError(
      f'the checkpoint {self.folder / str(step)} is damaged ({" ".join(str(error).split())[:200]}): '
      'remove it, or choose another one with --checkpoint='
    )

  def _steps(self) -> list[int]:
    """The steps of all checkpoints that are not known to be damaged, ascending."""
    return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())

  def _best(self, among: list[int]) -> list[int]:
    """Those of `among` that were evaluated, the best first."""
    errors = {}
    for step in among:
      try:
        error = atomic_io.facts(self.folder / str(step))['metrics'].get(_ERROR)
      except ValueError:
        continue
      if error is not None:
        errors[step] = error
    return sorted(errors, key=lambda step: (errors[step], -step))

  def _newest_whole(self) -> int:
    for step in reversed(self._steps()):
      if self._is_whole(step):
        return step
    damaged = any(path.name.partition(_DAMAGED)[0].isdigit() for path in self.folder.iterdir())
    return _NONE_WHOLE if damaged else _NONE

  def _is_whole(self, step: int) -> bool:
    """Whether the files of a checkpoint are what was written; one that is not is reported and set aside."""
    folder = self.folder / str(step)
    try:
      atomic_io.check(folder)
      return True
    except ValueError as error:
      fate = 'it is passed over'
      if not self._read_only:
        aside = folder.with_name(f'{step}{_DAMAGED}')
        for number in range(1, 1000):
          if not aside.exists():
            break
          aside = folder.with_name(f'{step}{_DAMAGED}-{number}')
        folder.rename(aside)
        fate = f'it is kept as {aside.name}'
      logging.warning('the checkpoint %s is damaged (%s): %s', folder, error, fate)
      return False

  def _finish(self, partial: pathlib.Path, step: int, facts: Mapping, began: float) -> None:
    """Waits for Orbax; then seals the checkpoint, gives it its name, and removes what it supersedes."""
    try:
      self._orbax.wait_until_finished()
      if multihost.is_primary():
        size = atomic_io.seal(partial, facts)
        final = self.folder / str(step)
        if final.exists():  # a step that is done again, after what came later was found damaged
          self._remove(final)
        partial.rename(final)
        atomic_io.sync(self.folder)
        there = self._steps()
        kept = {*there[-self._keep :], *self._best(there)[:1]}
        for old in kept.symmetric_difference(there):
          self._remove(self.folder / str(old))
        logging.info(
          'checkpoint of step %d: %.3g MB in %.2g s', step, size / 1e6, time.perf_counter() - began
        )
      self._latest, self._looked = step, True
    except Exception as error:
      shutil.rmtree(partial, ignore_errors=True)  # a full disk needs the room
      self._failure = self._cannot_write(step, error)

  def _remove(self, folder: pathlib.Path) -> None:
    """Removes a checkpoint; killed half-way, it leaves none that looks whole."""
    doomed = folder.with_name(f'{_PARTIAL}removed-{folder.name}')
    os.rename(folder, doomed)
    shutil.rmtree(doomed)

  def _cannot_write(self, step: int, error: BaseException) -> RunError:
    text = ' '.join(str(error).split())
    reason = next((known for known in _REASONS if known in text), text[:200])
    return RunError(
      f'the checkpoint of step {step} cannot be written to {self.folder} ({reason}): see that the disk has '
      'room and may be written, then run the same command again; it goes on from the one before'
    )


# What of an error's text says it all; Orbax's errors come with pages.
_REASONS = (
  'No space left on device',
  'Read-only file system',
  'Permission denied',
  'quota exceeded',
)
