"""`--mode=eval`: the errors of a network, or of a weighted ensemble, on every validation image exactly once.

The class probabilities are averaged over one or ten views of an image (section 4.1 of the paper), and
over the networks of an ensemble.
"""

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

_IN_FLIGHT = 2  # batches on the devices: one that is computed, and one that waits
_WITH_TOP5 = 6  # smallest number of classes with a meaningful top-5 error


class Model(NamedTuple):
  """A network ready to predict.

  Attributes:
    predict: the function that `steps.make_predict_step` returns.
    params, batch_stats: as in a train state.
    mean_image: float32 `[C, C, 3]`, the mean of the network's own training images.
    weight: the weight of its probabilities in an ensemble. The weights add up to 1.
  """

  predict: Callable
  params: dict
  batch_stats: dict
  mean_image: jax.Array
  weight: float


class Trained(NamedTuple):
  """A network that was read from a checkpoint.

  Attributes:
    model: ready to predict.
    config: the whole config of the checkpoint, with the mesh and the `eval` values of the caller.
    meta: the metadata of the checkpoint, among them `class_names`, `class_counts` and `config`.
    step: the step of the checkpoint.
    statistics: of the training images.
    mesh: on which the model predicts.
  """

  model: Model
  config: FrozenConfigDict
  meta: dict
  step: int
  statistics: Statistics
  mesh: jax.sharding.Mesh


def batch_size_on(config: ConfigDict | FrozenConfigDict, data: int) -> int:
  """Returns `config.eval.batch_size`, rounded up to a multiple of `data`, the data axis of the mesh."""
  return -(-config.eval.batch_size // data) * data


def _mesh(config: ConfigDict | FrozenConfigDict) -> jax.sharding.Mesh:
  """Returns the mesh of an evaluation.

  Without `config.mesh`, each device holds a whole network, and the batch is split over as many devices
  as it can be. Networks with one and with two towers can then share the mesh in an ensemble.
  """
  shape = config.mesh if any(config.mesh) else (mesh_lib.most_devices(config.eval.batch_size), 1)
  chosen = ConfigDict(config.to_dict() | {'mesh': shape})
  return mesh_lib.make_mesh(chosen, batch_size_on(config, max(shape[0], 1)))


def _never() -> bool:
  return False


def errors_of(
  models: Sequence[Model],
  dataset: Dataset,
  config: FrozenConfigDict,
  mesh: jax.sharding.Mesh,
  split: str = 'validation',
  is_stopping: Callable[[], bool] = _never,
) -> dict[str, Any] | None:
  """Measures the errors of the weighted average of `models` on a whole split.

  Args:
    models: the networks of the ensemble, or a single one.
    dataset: an open dataset.
    config: a whole config; `eval.batch_size` and the number of classes are used.
    mesh: the mesh of the models.
    split: validation or train.
    is_stopping: called before each batch; if it returns True, the evaluation ends.

  Returns:
    `top1_error` and `top5_error` in per cent (the latter None for 5 classes or fewer), `loss` (mean negative
    logarithm of the averaged probability of the label) and `examples`. A tie with the label counts as an
    error. None if the evaluation was stopped.

  Raises:
    UserError: the split has no readable image.
  """
  batch_size = batch_size_on(config, mesh.shape[mesh_lib.DATA])
  sums = []
  for batch in dataset.eval_batches(batch_size, sharding.local_rows(mesh, batch_size), split):
    jax.block_until_ready(sums[-_IN_FLIGHT:][:1])
    if is_stopping():
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
  """Adds up the `steps.score` of each batch of a split, and returns what `errors_of` returns.

  Raises:
    UserError: the split has no readable image.
  """
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
  """Returns the weights that `ensemble.search` finds on the validation split, in one process.

  It holds the probabilities of all networks in memory: 1.4 GB for seven networks on ImageNet's 50,000 images.
  """
  batch_size = batch_size_on(config, mesh.shape[mesh_lib.DATA])
  probabilities, labels = [], []
  for batch in dataset.eval_batches(batch_size, sharding.local_rows(mesh, batch_size)):
    images = sharding.shard_batch(mesh, batch)['image']
    batch_probabilities = [m.predict(m.params, m.batch_stats, images, m.mean_image) for m in models]
    probabilities.append(np.stack(jax.device_get(batch_probabilities))[:, batch['mask']])
    labels.append(batch['label'][batch['mask']])
  score = 'top5' if config.model.num_classes >= _WITH_TOP5 else 'top1'
  weights = ensemble.search(np.concatenate(probabilities, 1), np.concatenate(labels), score)
  logging.warning(
    'the weights %s were chosen on the images that they are measured on, so these errors are too low',
    weights,
  )
  return weights


def check_finite(errors: Mapping[str, Any]) -> None:
  """Raises RunError where `errors_of` found probabilities that are not finite."""
  if not math.isfinite(errors['loss']):
    raise RunError('the network predicts numbers that are not finite: use an earlier checkpoint')


def load(
  workdir: str | pathlib.Path, which: str, overrides: ConfigDict, weight: float = 1.0
) -> Trained:
  """Reads a trained network from its workdir.

  Args:
    workdir: the folder of the run.
    which: the checkpoint: best, latest or a step.
    overrides: a whole config. Its mesh and its `eval` values are used; all others are the checkpoint's.
    weight: the weight of the network in an ensemble.

  Raises:
    UserError: there is no such checkpoint, or `overrides` is invalid.
  """
  config_lib.validate(overrides)
  with Checkpoints(workdir, read_only=True) as checkpoints:
    step = checkpoints.choose(which)
    meta = checkpoints.meta(step)
    own = ConfigDict(meta['config'].to_dict())
    own.mesh, own.eval = overrides.mesh, overrides.eval
    own.parallelism = 'towers'  # prediction needs no split of units, even if training used it
    config = FrozenConfigDict(own)
    if own.eval.weights == 'ema' and not own.optim.ema:
      raise UserError(
        f'config.eval.weights=ema, but the run in {workdir} keeps no average: train with '
        '--config.optim.ema=0.999'
      )
    mesh = _mesh(config)
    abstract = steps.abstract_state(config, mesh)
    params, batch_stats = checkpoints.restore_params(step, abstract, own.eval.weights)
    statistics = checkpoints.restore_statistics(step, mesh, config.data.canvas.size)
  predict = steps.make_predict_step(config, mesh, config.eval.views)
  model = Model(predict, params, batch_stats, statistics.mean_image, weight)
  return Trained(model, config, meta, step, statistics, mesh)


def load_alone(workdir: str | pathlib.Path, which: str, config: ConfigDict) -> Trained:
  """Reads a trained network for one device, and checks that it is the one that `config` describes.

  Args:
    workdir: the folder of the run.
    which: the checkpoint: best, latest or a step.
    config: a whole config; see `load`.

  Raises:
    UserError: there is no such checkpoint, or it holds another network than `config` describes.
  """
  trained = load(workdir, which, ConfigDict(config.to_dict() | {'mesh': (1, 1)}))
  check_overrides(config, trained.config)
  return trained


def _check_ensemble(trained: Sequence[Trained], workdirs: Sequence) -> None:
  """Raises UserError where the networks differ in their canvases or their classes."""
  first = trained[0]
  for other, workdir in zip(trained[1:], workdirs[1:], strict=True):
    ours, theirs = (config_lib.flatten(t.config.data.canvas) for t in (first, other))
    differing = [
      f'config.data.canvas.{key}: {ours[key]!r} and {theirs[key]!r}'
      for key in ours
      if ours[key] != theirs[key]
    ]
    if difference := classes_apart(first.meta['class_names'], other.meta['class_names']):
      differing.insert(0, f'classes: {difference}')
    if differing:
      raise UserError(
        f'{workdirs[0]} and {workdir} cannot be averaged: {"; ".join(differing)}: leave one out'
      )


def classes_apart(ours: Sequence[str], theirs: Sequence[str]) -> str:
  """Returns in words how two lists of class names differ, or '' if they are equal."""
  if list(ours) == list(theirs):
    return ''
  exclusive = ('the first', set(ours) - set(theirs)), ('the second', set(theirs) - set(ours))
  more = [f'only {which} has {_some(sorted(names))}' for which, names in exclusive if names]
  return f'{len(ours)} and {len(theirs)}, ' + (', '.join(more) or 'the same in another order')


def check_overrides(config: ConfigDict, own: FrozenConfigDict) -> None:
  """Checks that `config` describes the network of a checkpoint, whose config is `own`.

  Raises:
    UserError: a value of `config.model` or `config.augment` differs. The number of classes may.
  """
  trained = config_lib.flatten(own)
  for key, value in config_lib.flatten(config).items():
    is_of_network = key.startswith(('model.', 'augment.')) and key != 'model.num_classes'
    if is_of_network and value != trained.get(key):
      raise UserError(
        f'config.{key}={value!r}, but the checkpoint was trained with {trained.get(key)!r}: leave it '
        'out; the network comes from the checkpoint'
      )


def evaluate(
  config: ConfigDict,
  workdirs: Sequence[str | pathlib.Path],
  which: str = 'best',
  weights: Sequence[float] = (),
  search: bool = False,
) -> dict[str, object]:
  """Evaluates the run in one workdir, or the weighted average of several.

  Args:
    config: a whole config. It names the data (the canvas is that of the networks), the `eval` values
      and the mesh.
    workdirs: the folders of the runs.
    which: the checkpoint of each run: best, latest or a step.
    weights: one for each workdir, or empty for equal weights. They are scaled to add up to 1.
    search: whether to search the weights that make the fewest errors on the same images, and use them.

  Returns:
    The result of `errors_of`; `weights` if they were searched; `views`; `checkpoint` (the step, or a
    list of steps); `skipped_images`; `majority_error` (see `baseline.majority_error`); and, with
    `config.eval.baseline`, `baseline_error` (see `baseline.ridge_error`).

  Raises:
    UserError: there is no checkpoint, there are no validation images, or the networks do not fit together.
    RunError: a network predicts numbers that are not finite.
  """
  weights = _check_weights(weights, len(workdirs), search)
  trained = [
    load(workdir, which, config, weight / sum(weights))
    for workdir, weight in zip(workdirs, weights, strict=True)
  ]
  _check_ensemble(trained, workdirs)
  first = trained[0]
  check_overrides(config, first.config)
  with contextlib.closing(_open_data(config, first)) as dataset:
    labels = _validation_labels(dataset, config.data.source)
    models, mesh = [t.model for t in trained], _mesh(first.config)
    if search:
      weights = _search_weights(models, dataset, first.config, mesh)
      models = [
        model._replace(weight=weight / sum(weights))
        for model, weight in zip(models, weights, strict=True)
      ]
    result = errors_of(models, dataset, first.config, mesh)
    assert result is not None  # it was not stopped
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


def _check_weights(weights: Sequence[float], runs: int, search: bool) -> list[float]:
  """Returns one weight for each run; raises UserError where `--weights` or `--search_weights` is wrong."""
  if search and (weights or runs < 2 or multihost.share() != (0, 1)):
    raise UserError(
      '--search_weights needs two runs or more, in one process: give --checkpoints=A,B, and neither '
      '--weights nor --distributed'
    )
  weights = list(weights) or [1.0] * runs
  if len(weights) != runs:
    raise UserError(
      f'--weights has {len(weights)} numbers for {runs} runs: give each run one number'
    )
  if min(weights) < 0 or not 0 < sum(weights) < math.inf:
    shown = ','.join(f'{weight:g}' for weight in weights)
    raise UserError(f'--weights={shown}: each must be 0 or more, and not all of them 0')
  return weights


def _open_data(config: ConfigDict, trained: Trained) -> Dataset:
  """Opens the data that `config` names on the canvas of the network, and checks its classes."""
  data = ConfigDict(config.data.to_dict() | {'canvas': trained.config.data.canvas.to_dict()})
  with multihost.primary_first('data'):
    dataset = open_dataset(data, config.seed)
  if difference := classes_apart(dataset.class_names, trained.meta['class_names']):
    dataset.close()
    raise UserError(
      f'{config.data.source} has other classes than the checkpoint: {difference}: evaluate on the classes '
      'that it was trained on'
    )
  return dataset


def _validation_labels(dataset: Dataset, source: str) -> np.ndarray:
  """Returns the labels of the validation images; raises UserError if there are none."""
  labels = dataset.validation_labels
  if labels is None or not dataset.num_validation:
    raise UserError(
      f'{source} has no validation images, and too few training images to hold some out: add PATH/val'
    )
  return labels


def _some(names: Sequence[str]) -> str:
  """Returns the number of names and the first five of them."""
  shown = ', '.join(names[:5])
  return f'{len(names)} ({shown}{", ..." if len(names) > 5 else ""})'
