"""Checkpoints of a run: the only module that uses Orbax.

A checkpoint is a folder `checkpoints/STEP/`. It holds Orbax items: `params` (parameters and batch
statistics), `optimizer` (step, velocity, running sums), `statistics` (mean image, colour eigenvectors and
deviations) and, if the run keeps an exponential moving average (EMA) of the parameters, `ema`. Its
`manifest.json`, written last, holds digests of all files and the rest of the state: config, class names,
schedule, validation errors.

A checkpoint is written while the next steps run. The state is copied on the devices, and Orbax writes the
copy to `partial-STEP`. That folder is synced, sealed and renamed; only then are older checkpoints removed.
Loading verifies the digests. A damaged checkpoint is renamed to `STEP.damaged`, and the one before it is
used. The newest few and the best are kept.
"""

from collections.abc import Callable, Mapping
import datetime
import json
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
from alexnet_jax.workdir.checkpoint_folder import CheckpointFolder

FOLDER = 'checkpoints'
_NONE, _ALL_DAMAGED = -1, -2  # sent between processes in place of a step
# Substrings that summarise Orbax's errors, whose texts are pages long.
_REASONS = (
  'No space left on device',
  'Read-only file system',
  'Permission denied',
  'quota exceeded',
)


@jax.jit
def _snapshot(tree):
  """Returns a copy, which stays valid when the next step takes `tree` over, and whether it is finite."""
  return jax.tree.map(jnp.copy, tree), steps.all_finite(tree)


def _on_primary(find: Callable[[], int]) -> int:
  """Returns on every process what `find` returns on process 0; its RunError is raised on all of them."""
  number, problem = _NONE, ''
  if multihost.is_primary():
    try:
      number = find()
    except RunError as error:
      problem = str(error)
  if problem := multihost.text_from_primary(problem):
    raise RunError(problem)
  return multihost.from_primary(number)


class Checkpoints:
  """The checkpoints of one workdir; use as a context manager, which waits for the last one to be written.

  If several processes share a run, all of them call the same methods; process 0 seals, verifies and removes.

  Args:
    workdir: the folder of the run.
    keep: number of newest checkpoints to keep, beside the best.
    read_only: create, rename and remove nothing; for evaluation.

  Raises:
    UserError: `read_only` is set and there is no folder of checkpoints.
  """

  def __init__(self, workdir: str | pathlib.Path, keep: int = 2, read_only: bool = False):
    self.folder = pathlib.Path(workdir).absolute() / FOLDER
    self._files = CheckpointFolder(self.folder, read_only)
    self._keep = keep
    if read_only and not self.folder.is_dir():
      raise UserError(f'{workdir} holds no checkpoints: train there first, or name another workdir')
    if not read_only and multihost.is_primary():
      self._files.create()
    handler = ocp.CompositeCheckpointHandler('params', 'ema', 'optimizer', 'statistics')
    # If Orbax cannot create a folder in the background, it waits for it forever.
    options = ocp.options.AsyncOptions(create_directories_asynchronously=False)
    self._orbax = ocp.AsyncCheckpointer(handler, async_options=options)
    self._saving: threading.Thread | None = None
    self._failure: BaseException | None = None
    self._latest: int | None = None
    self._latest_known = False

  def __enter__(self):
    return self

  def __exit__(self, kind, *_):
    try:
      self.wait()
    except Exception as error:
      if kind is None:
        raise
      logging.error('%s', error)  # the exception that ended the run goes first
    finally:
      self._orbax.close()

  def latest(self) -> int | None:
    """Returns the step of the newest whole checkpoint; None if there is none yet.

    Raises:
      RunError: there are checkpoints, but all of them are damaged, or one cannot be read now.
    """
    self.wait()
    if not self._latest_known:
      found = _on_primary(self._newest)
      if found == _ALL_DAMAGED:
        raise RunError(
          f'all checkpoints in {self.folder} are damaged: restore a copy of one, as a folder named by its '
          'step, or start again in a new workdir'
        )
      self._latest, self._latest_known = None if found == _NONE else found, True
    return self._latest

  def best(self) -> int | None:
    """Returns the step with the lowest validation error, the later of equals; the newest if none has one.

    Raises:
      RunError: there are checkpoints, but all of them are damaged, or one cannot be read now.
    """
    self.wait()
    step = _on_primary(self._best_whole)
    return self.latest() if step == _NONE else step

  def _newest(self) -> int:
    step = self._files.newest_whole()
    if step is None:
      return _ALL_DAMAGED if self._files.has_any() else _NONE
    return step

  def _best_whole(self) -> int:
    ranked = self._files.ranked(self._files.steps())
    return next((step for step in ranked if self._files.is_whole(step)), _NONE)

  def choose(self, which: str) -> int:
    """Returns the step that `--checkpoint=best|latest|STEP` selects.

    Raises:
      UserError: there is no such checkpoint.
      RunError: all checkpoints are damaged, or the selected one is, or one cannot be read now.
    """
    available = self._files.steps()
    if which in ('best', 'latest'):
      step = self.best() if which == 'best' else self.latest()
      if step is None:
        raise UserError(f'{self.folder.parent} holds no checkpoint: train there first')
      return step
    if not which.isdigit() or int(which) not in available:
      raise UserError(
        f'--checkpoint={which}: choose best, latest or one of {", ".join(map(str, available))}'
      )
    if not _on_primary(lambda: int(self._files.is_whole(int(which)))):
      raise RunError(
        f'the checkpoint of step {which} is damaged: choose another one in {self.folder}'
      )
    return int(which)

  def save(
    self,
    state: steps.TrainState,
    statistics: Statistics,
    meta: Mapping,
    metrics: Mapping[str, float] | None = None,
  ) -> bool:
    """Starts to save `state` under its step, unless it holds a number that is not finite.

    The call first waits for the save before it. After it returns, the state may be donated.

    Args:
      state: the train state, on its devices.
      statistics: the statistics of the training images.
      meta: JSON-able; returned by `Checkpoints.meta`.
      metrics: the errors of an evaluation at this step, if there was one; the best checkpoint has the lowest
        `val/top1_error`.

    Returns:
      Whether all numbers are finite; if not, nothing is saved.

    Raises:
      RunError: this save could not start, or the one before it failed.
    """
    self.wait()
    copy, finite = _snapshot(state)
    if not finite:
      return False
    step, began = int(copy.step), time.perf_counter()
    partial = self._files.partial(step)
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
    """Replaces the metadata of the complete checkpoint of `step`; its arrays stay as they are."""
    self.wait()
    if multihost.is_primary():
      atomic_io.reseal(
        self.folder / str(step), {'step': step, 'meta': dict(meta), 'metrics': dict(metrics)}
      )

  def wait(self) -> None:
    """Blocks until the current save is complete.

    Raises:
      RunError: it failed; older checkpoints are unchanged.
    """
    if self._saving is not None:
      self._saving.join()
      self._saving = None
    if self._failure is not None:
      error, self._failure = self._failure, None
      raise error

  def raise_failure(self) -> None:
    """Behaves like `wait` if a save has failed already; otherwise returns at once."""
    if self._failure is not None:
      self.wait()

  def meta(self, step: int) -> dict:
    """Returns the metadata of a checkpoint, with its `config` as a FrozenConfigDict.

    Raises:
      UserError: the checkpoint is damaged.
      RunError: it cannot be read now, or is not there any more.
    """
    try:
      meta = self._files.read(step, atomic_io.facts)['meta']
    except ValueError as error:
      raise self._damaged(step, error) from None
    return meta | {'config': FrozenConfigDict(config_lib.from_json(meta['config']))}

  def errors(self, step: int) -> dict[str, float]:
    """Returns the errors of the evaluation at a checkpoint's step; none if there was no evaluation.

    Raises:
      UserError: the checkpoint is damaged.
      RunError: it cannot be read now, or is not there any more.
    """
    try:
      return self._files.read(step, atomic_io.facts)['metrics']
    except ValueError as error:
      raise self._damaged(step, error) from None

  def written(self, step: int) -> datetime.datetime | None:
    """Returns when Orbax wrote the checkpoint, in UTC; None if its file does not say so."""
    try:
      values = json.loads((self.folder / str(step) / '_CHECKPOINT_METADATA').read_text())
      seconds = values['commit_timestamp_nsecs'] / 1e9
      return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (OSError, ValueError, KeyError, TypeError):
      return None

  def restore(self, step: int, abstract: steps.TrainState) -> steps.TrainState:
    """Reads the whole train state with the shapes and shardings of `abstract` (`steps.abstract_state`)."""
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
    """Reads the parameters (`weights='last'`) or their EMA (`weights='ema'`), and the batch statistics."""
    wanted = {'params': abstract.params, 'batch_stats': abstract.batch_stats}
    item = self._restore(step, params=ocp.args.StandardRestore(wanted))['params']
    if weights == 'ema':
      average = self._restore(step, ema=ocp.args.StandardRestore(abstract.ema))['ema']
      return average, item['batch_stats']
    return item['params'], item['batch_stats']

  def restore_statistics(self, step: int, mesh: Mesh, size: int) -> Statistics:
    """Reads the statistics of the training images to every device of `mesh`.

    Args:
      step: of the checkpoint.
      mesh: the devices.
      size: height and width of a canvas in pixels.
    """
    shapes = {'mean_image': (size, size, 3), 'eigenvectors': (3, 3), 'deviations': (3,)}
    everywhere = NamedSharding(mesh, P())
    abstract = {
      name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=everywhere)
      for name, shape in shapes.items()
    }
    item = self._restore(step, statistics=ocp.args.StandardRestore(abstract))['statistics']
    return Statistics(**item)

  def _restore(self, step: int, **items) -> dict:
    wanted = ocp.args.Composite(**items)
    try:
      return self._files.read(step, lambda folder: self._orbax.restore(folder, wanted))
    except (KeyError, ValueError, OSError) as error:
      raise self._damaged(step, error) from None

  def _damaged(self, step: int, error: Exception) -> UserError:
    return UserError(
      f'the checkpoint {self.folder / str(step)} is damaged ({" ".join(str(error).split())[:200]}): '
      'remove it, or choose another one with --checkpoint='
    )

  def _finish(self, partial: pathlib.Path, step: int, facts: Mapping, began: float) -> None:
    """Runs in a thread: waits for Orbax, then publishes the checkpoint."""
    try:
      self._orbax.wait_until_finished()
      if multihost.is_primary():
        size = self._files.publish(step, facts, self._keep)
        seconds = time.perf_counter() - began
        logging.info('checkpoint of step %d: %.3g MB in %.2g s', step, size / 1e6, seconds)
      self._latest, self._latest_known = step, True
    except Exception as error:
      shutil.rmtree(partial, ignore_errors=True)  # a full disk needs the space
      self._failure = self._cannot_write(step, error)

  def _cannot_write(self, step: int, error: BaseException) -> RunError:
    text = ' '.join(str(error).split())
    reason = next((known for known in _REASONS if known in text), text[:200])
    return RunError(
      f'the checkpoint of step {step} cannot be written to {self.folder} ({reason}): check that the disk '
      'has space and is writable, then run the same command again; it resumes from the previous checkpoint'
    )
