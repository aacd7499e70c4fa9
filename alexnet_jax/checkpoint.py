"""Checkpoints of a run: the one file that knows Orbax.

Each holds four items under `checkpoints/STEP/`: `params` (parameters and batch statistics), `optimizer`
(step, velocity, running sums), `statistics` (mean image, colour eigenvectors and deviations) and `meta`
(JSON: config, class names, counts, schedule state, validation errors). Orbax writes to a temporary folder
and renames it, so a killed run leaves whole checkpoints only. The latest few and the best are kept.
"""

from collections.abc import Mapping
import pathlib

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
from alexnet_jax.errors import UserError

FOLDER = 'checkpoints'
_ERROR = 'val/top1_error'


@jax.jit
def _all_finite(tree) -> jax.Array:
  return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


class Checkpoints:
  """The checkpoints of one workdir; use as a context manager.

  Args:
    workdir: of the run.
    keep: how many of the latest to keep, beside the best.
    read_only: for evaluation: nothing is created, cleaned up or removed.
  """

  def __init__(self, workdir: str | pathlib.Path, keep: int = 2, read_only: bool = False):
    self.folder = pathlib.Path(workdir).absolute() / FOLDER
    rank = lambda metrics: -metrics[_ERROR]  # the highest is the best, of equals the latest
    policies = ocp.checkpoint_managers
    best = policies.BestN(get_metric_fn=rank, n=1, keep_checkpoints_without_metrics=False)
    if read_only and not self.folder.is_dir():
      raise UserError(f'{workdir} holds no checkpoints: train there first, or name another workdir')
    self._manager = ocp.CheckpointManager(
      self.folder,
      item_names=('params', 'ema', 'optimizer', 'statistics', 'meta'),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
        best_fn=rank,  # Orbax stores metrics only where this is set
        enable_async_checkpointing=False,
        cleanup_tmp_directories=not read_only,
        create=not read_only,
        read_only=read_only,
      ),
    )

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._manager.close()

  def latest(self) -> int | None:
    """The step of the newest checkpoint, None if there is none."""
    return self._manager.latest_step()

  def best(self) -> int | None:
    """The step of the lowest validation error, of equals the latest; the newest without any."""
    step = self._manager.best_step()
    return self.latest() if step is None else step

  def choose(self, which: str) -> int:
    """The step that `--checkpoint=best|latest|STEP` means.

    Raises:
      UserError: there is no such checkpoint.
    """
    steps_there = sorted(self._manager.all_steps())
    best, latest = self.best(), self.latest()
    if best is None or latest is None:
      raise UserError(f'{self.folder.parent} holds no checkpoint: train there first')
    if which in ('best', 'latest'):
      return best if which == 'best' else latest
    if not which.isdigit() or int(which) not in steps_there:
      raise UserError(
        f'--checkpoint={which}: choose best, latest or a step of {", ".join(map(str, steps_there))}'
      )
    return int(which)

  def save(
    self,
    state: steps.TrainState,
    statistics: Statistics,
    meta: Mapping,
    metrics: Mapping[str, float] | None = None,
  ) -> bool:
    """Saves `state` under its step, unless it holds a number that is not finite.

    Args:
      state: on its devices.
      statistics: of the training images.
      meta: JSON-able.
      metrics: of the evaluation at this step, if there was one; ranks the best checkpoint.

    Returns:
      Whether all numbers were finite.
    """
    if not _all_finite((state.params, state.opt_state, state.batch_stats, state.sums)):
      return False
    step = int(state.step)
    optimizer = {'step': state.step, 'opt_state': state.opt_state, 'sums': state.sums}
    average = {'ema': ocp.args.StandardSave(state.ema)} if state.ema else {}
    self._manager.save(
      step,
      args=ocp.args.Composite(
        params=ocp.args.StandardSave({'params': state.params, 'batch_stats': state.batch_stats}),
        optimizer=ocp.args.StandardSave(optimizer),
        statistics=ocp.args.StandardSave(jax.tree.map(np.asarray, statistics._asdict())),
        meta=ocp.args.JsonSave(dict(meta)),
        **average,
      ),
      metrics=dict(metrics) if metrics else None,
      force=True,
    )
    self._manager.wait_until_finished()
    return True

  def meta(self, step: int) -> dict:
    """The JSON part of a checkpoint, its `config` as a frozen config."""
    meta = self._restore(step, meta=ocp.args.JsonRestore())['meta']
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
      return self._manager.restore(step, args=ocp.args.Composite(**items))
    except (KeyError, FileNotFoundError) as error:
      raise UserError(
        f'the checkpoint {self.folder / str(step)} is damaged ({" ".join(str(error).split())[:200]}): '
        'remove it, or choose another one with --checkpoint='
      ) from None
