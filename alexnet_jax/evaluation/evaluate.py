"""Evaluation: one centre view or the paper's ten, one network or a weighted ensemble, each image once."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import math
import pathlib
from typing import Any, NamedTuple

from absl import logging
import jax
from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np

from alexnet_jax import config as config_lib
from alexnet_jax import steps
from alexnet_jax.data import Dataset, Statistics, open_dataset
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.distributed import multihost, sharding
from alexnet_jax.errors import RunError, UserError
from alexnet_jax.evaluation import baseline, ensemble
from alexnet_jax.workdir.checkpoint import Checkpoints

_IN_FLIGHT = 2  # batches that are computed at a time; the one that runs, and the next
_WITH_TOP5 = 6  # fewest classes for which a top-5 error says anything


class Model(NamedTuple):
  """A network ready to predict.

  Attributes:
    predict: of `steps.make_predict_step`.
    params, batch_stats: of a train state.
    mean_image: float32 `[C, C, 3]`, of the network's own training images.
    weight: of its probabilities in an ensemble; the weights add up to 1.
  """

  predict: Callable
  params: dict
  batch_stats: dict
  mean_image: jax.Array
  weight: float


class Trained(NamedTuple):
  """A checkpoint read back: its model, what it knows of its data, and where it is."""

  model: Model
  config: FrozenConfigDict
  meta: dict
  step: int
  statistics: Statistics
  mesh: jax.sharding.Mesh


def batch_size_on(config: ConfigDict | FrozenConfigDict, data: int) -> int:
  """`eval.batch_size`, rounded up to a multiple of the mesh's data axis."""
  return -(-config.eval.batch_size // data) * data


def _mesh(config: ConfigDict | FrozenConfigDict) -> jax.sharding.Mesh:
  """The mesh of an evaluation: without `config.mesh`, whole networks on as many devices as fit.

  So networks of one and of two towers share it in an ensemble.
  """
  shape = config.mesh if any(config.mesh) else (mesh_lib.most_devices(config.eval.batch_size), 1)
  chosen = ConfigDict(config.to_dict() | {'mesh': shape})
  return mesh_lib.make_mesh(chosen, batch_size_on(config, max(shape[0], 1)))


def errors_of(
  models: Sequence[Model],
  dataset: Dataset,
  config: FrozenConfigDict,
  mesh: jax.sharding.Mesh,
  split: str = 'validation',
  stopping: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
  """Errors over a whole split, every image exactly once.

  Args:
    models: whose probabilities are averaged by weight.
    dataset: whose split is read.
    config: `eval.batch_size` is used.
    mesh: of the models.
    split: validation or train.
    stopping: asked between batches; where it says so, the evaluation ends and None is returned.

  Returns:
    `top1_error` and `top5_error` in per cent (the latter None for 5 classes or fewer), `loss` (mean
    negative log of the averaged probability) and `examples`. A tie with the label counts as wrong.
  """
  batch_size = batch_size_on(config, mesh.shape[mesh_lib.DATA])
  sums = []
  for batch in dataset.eval_batches(batch_size, sharding.local_rows(mesh, batch_size), split):
    jax.block_until_ready(sums[-_IN_FLIGHT:][:1])
    if stopping():
      return None
    rows = sharding.shard_batch(mesh, batch)
    probabilities = sum(
      m.weight * m.predict(m.params, m.batch_stats, rows['image'], m.mean_image) for m in models
    )
    sums.append(steps.score(probabilities, rows['label'], rows['mask']))
  return errors_from(sums, config.model.num_classes, split)


def errors_from(
  sums: Sequence[Mapping[str, jax.Array]], classes: int, split: str = 'validation'
) -> dict[str, Any]:
  """What `errors_of` returns, of the `steps.score` of each batch of a split."""
  total = {name: float(sum(s[name] for s in jax.device_get(sums))) for name in sums[0]}
  examples = int(total['examples'])
  if not examples:
    raise UserError(f'no {split} image could be decoded: nothing to evaluate')
  return {
    'top1_error': 100 * total['top1'] / examples,
    'top5_error': 100 * total['top5'] / examples if classes >= _WITH_TOP5 else None,
    'loss': total['loss'] / examples,
    'examples': examples,
  }


def _search_weights(
  models: Sequence[Model], dataset: Dataset, config: FrozenConfigDict, mesh: jax.sharding.Mesh
) -> list[float]:
  """The weights of `ensemble.search` on the validation split, in one process.

  Holds the probabilities of all networks: 1.4 GB of seven on the 50,000 images of ImageNet.
  """
  batch_size = batch_size_on(config, mesh.shape[mesh_lib.DATA])
  found, labels = [], []
  for batch in dataset.eval_batches(batch_size, sharding.local_rows(mesh, batch_size)):
    images = sharding.shard_batch(mesh, batch)['image']
    each = [m.predict(m.params, m.batch_stats, images, m.mean_image) for m in models]
    found.append(np.stack(jax.device_get(each))[:, batch['mask']])
    labels.append(batch['label'][batch['mask']])
  score = 'top5' if config.model.num_classes >= _WITH_TOP5 else 'top1'
  weights = ensemble.search(np.concatenate(found, 1), np.concatenate(labels), score)
  logging.warning(
    'weights %s were chosen on the images that measure them: these errors flatter the ensemble',
    weights,
  )
  return weights


def check_finite(errors: Mapping[str, Any]) -> None:
  """Raises RunError where errors are those of probabilities that are no numbers."""
  if not math.isfinite(errors['loss']):
    raise RunError('the network predicts numbers that are not finite: use an earlier checkpoint')


def load(
  workdir: str | pathlib.Path, which: str, overrides: ConfigDict, weight: float = 1.0
) -> Trained:
  """Reads a trained network back from its workdir.

  Args:
    workdir: of the run.
    which: best, latest or a step.
    overrides: the config in force; its mesh and `eval` (also which weights) are used, the rest is the
      checkpoint's own.
    weight: in an ensemble.

  Raises:
    UserError: there is no such checkpoint, or `overrides` has what cannot be.
  """
  config_lib.validate(overrides)
  with Checkpoints(workdir, read_only=True) as checkpoints:
    step = checkpoints.choose(which)
    meta = checkpoints.meta(step)
    own = ConfigDict(meta['config'].to_dict())
    own.mesh, own.eval = overrides.mesh, overrides.eval
    own.parallelism = 'towers'  # whole networks, whatever trained them
    config = FrozenConfigDict(own)
    if own.eval.weights == 'ema' and not own.optim.ema:
      raise UserError(
        f'config.eval.weights=ema, but {workdir} keeps no average: train with --config.optim.ema=0.999'
      )
    mesh = _mesh(config)
    abstract = steps.abstract_state(config, mesh)
    params, batch_stats = checkpoints.restore_params(step, abstract, own.eval.weights)
    statistics = checkpoints.restore_statistics(step, mesh, config.data.canvas.size)
  predict = steps.make_predict_step(config, mesh, config.eval.views)
  model = Model(predict, params, batch_stats, statistics.mean_image, weight)
  return Trained(model, config, meta, step, statistics, mesh)


def load_alone(workdir: str | pathlib.Path, which: str, config: ConfigDict) -> Trained:
  """As `load`, the network that `config` is of, on one device.

  Raises:
    UserError: no such checkpoint, or `config` asks for another network than it holds.
  """
  trained = load(workdir, which, ConfigDict(config.to_dict() | {'mesh': (1, 1)}))
  check_overrides(config, trained.config)
  return trained


def _check_ensemble(trained: Sequence[Trained], workdirs: Sequence) -> None:
  """Raises UserError where the networks cannot share images and classes."""
  first = trained[0]
  for other, workdir in zip(trained[1:], workdirs[1:], strict=True):
    ours, theirs = (config_lib.flatten(t.config.data.canvas) for t in (first, other))
    differing = [
      f'config.data.canvas.{key}: {ours[key]!r} and {theirs[key]!r}'
      for key in ours
      if ours[key] != theirs[key]
    ]
    if apart := classes_apart(first.meta['class_names'], other.meta['class_names']):
      differing.insert(0, f'classes: {apart}')
    if differing:
      raise UserError(
        f'{workdirs[0]} and {workdir} cannot be averaged: {"; ".join(differing)}: leave one out'
      )


def classes_apart(ours: Sequence[str], theirs: Sequence[str]) -> str:
  """How two lists of class names differ, in words; empty where they do not."""
  if list(ours) == list(theirs):
    return ''
  only = ('the first', set(ours) - set(theirs)), ('the second', set(theirs) - set(ours))
  more = [f'only {which} has {_some(sorted(names))}' for which, names in only if names]
  return f'{len(ours)} and {len(theirs)}, ' + (', '.join(more) or 'the same in another order')


def check_overrides(config: ConfigDict, own: FrozenConfigDict) -> None:
  """Raises UserError where `config` asks for another network than the checkpoint holds."""
  asked, there = config_lib.flatten(config), config_lib.flatten(own)
  for key, value in asked.items():
    if (
      key.startswith(('model.', 'augment.'))
      and key != 'model.num_classes'
      and value != there.get(key)
    ):
      raise UserError(
        f'config.{key}={value!r}, but the checkpoint was trained with {there.get(key)!r}: leave it '
        "out, as the network is the checkpoint's own"
      )


def evaluate(
  config: ConfigDict,
  workdirs: Sequence[str | pathlib.Path],
  which: str = 'best',
  weights: Sequence[float] = (),
  search: bool = False,
) -> dict[str, object]:
  """Evaluates the run of one workdir, or the weighted average of several.

  Args:
    config: names the data (`data`; the canvas is the networks' own), the `eval` choices and the mesh.
    workdirs: of the runs.
    which: checkpoint of each: best, latest or a step.
    weights: one a workdir; equal if empty. They are scaled to add up to 1.
    search: whether to find the weights that make the fewest errors, on the same images, and take them.

  Returns:
    `errors_of`, with `weights` where they were searched for, `views`, `checkpoint` (step or steps),
    `majority_error` (of always saying the training split's most frequent class) and, with
    `config.eval.baseline`, `baseline_error` (`baseline.ridge_error`).

  Raises:
    UserError: no checkpoint, no validation images, or networks that do not go together.
    RunError: a network predicts numbers that are not finite.
  """
  if search and (weights or len(workdirs) < 2 or multihost.share() != (0, 1)):
    raise UserError(
      '--search_weights finds the weights of two runs or more, in one process: give --checkpoints=A,B, '
      'and neither --weights nor --distributed'
    )
  weights = list(weights) or [1.0] * len(workdirs)
  if len(weights) != len(workdirs):
    raise UserError(
      f'--weights names {len(weights)} of {len(workdirs)} weights: give each run one number'
    )
  if min(weights) < 0 or not 0 < sum(weights) < math.inf:
    shown = ','.join(f'{weight:g}' for weight in weights)
    raise UserError(f'--weights={shown}: each must be 0 or more, and not all of them 0')
  trained = [
    load(workdir, which, config, weight / sum(weights))
    for workdir, weight in zip(workdirs, weights, strict=True)
  ]
  _check_ensemble(trained, workdirs)
  first = trained[0]
  check_overrides(config, first.config)
  data = ConfigDict(config.data.to_dict() | {'canvas': first.config.data.canvas.to_dict()})
  with multihost.primary_first('data'):
    dataset = open_dataset(data, config.seed)
  with contextlib.closing(dataset):
    if apart := classes_apart(dataset.class_names, first.meta['class_names']):
      raise UserError(
        f'{config.data.source} has other classes than the checkpoint: {apart}: evaluate on the classes it '
        'was trained on'
      )
    labels = dataset.validation_labels
    if labels is None or not dataset.num_validation:
      raise UserError(
        f'{config.data.source} has no validation images, and nothing to hold out: add PATH/val'
      )
    models, mesh = [t.model for t in trained], _mesh(first.config)
    if search:
      weights = _search_weights(models, dataset, first.config, mesh)
      models = [
        model._replace(weight=weight / sum(weights))
        for model, weight in zip(models, weights, strict=True)
      ]
    result = errors_of(models, dataset, first.config, mesh)
    assert result is not None  # nothing asked it to stop
    check_finite(result)
    if search:
      result['weights'] = weights
    result['views'] = config.eval.views
    result['majority_error'] = baseline.majority_error(first.meta['class_counts'], labels)
    if config.eval.baseline and multihost.is_primary():
      result['baseline_error'] = baseline.ridge_error(dataset, first.config.model.input_size)
    result['skipped_images'] = len(dataset.skipped)
  checkpoints = [t.step for t in trained]
  return result | {'checkpoint': checkpoints[0] if len(checkpoints) == 1 else checkpoints}


def _some(names: Sequence[str]) -> str:
  shown = ', '.join(names[:5])
  return f'{len(names)} ({shown}{", ..." if len(names) > 5 else ""})'
