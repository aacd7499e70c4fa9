"""`--mode=eval`: the errors of a network, or of a weighted ensemble, on every validation image exactly once.

The class probabilities are averaged over one or ten views of an image (section 4.1 of the paper), and
over the networks of an ensemble.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import math
import os
import pathlib
from typing import Any

from absl import logging
import jax
from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np
from tqdm import tqdm

from alexnet_jax import config as config_lib
from alexnet_jax import steps
from alexnet_jax.data import Dataset, open_dataset
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.distributed import multihost, sharding
from alexnet_jax.errors import RunError, UserError
from alexnet_jax.evaluation import baseline, ensemble, per_class
from alexnet_jax.evaluation.loading import (
  OF_READING,
  Model,
  Trained,
  batch_size_on,
  check_overrides,
  class_labels,
  fingerprint,
  load,
  make_mesh,
  warn_of_another_reading,
  warn_of_another_split,
)
from alexnet_jax.utils import output_path
from alexnet_jax.workdir import archive

_IN_FLIGHT = 2  # batches on the devices: one that is computed, and one that waits
WITH_TOP5 = 6  # smallest number of classes with a meaningful top-5 error


def _never() -> bool:
  return False


def errors_of(
  models: Sequence[Model],
  dataset: Dataset,
  config: FrozenConfigDict,
  mesh: jax.sharding.Mesh,
  split: str = 'validation',
  is_stopping: Callable[[], bool] = _never,
  tally: Callable[..., None] | None = None,
) -> dict[str, Any] | None:
  """Measures the errors of the weighted average of `models` on a whole split.

  Args:
    models: the networks of the ensemble, or a single one.
    dataset: an open dataset.
    config: a whole config; `eval.batch_size` and the number of classes are used.
    mesh: the mesh of the models.
    split: validation or train.
    is_stopping: called before each batch; if it returns True, the evaluation ends.
    tally: called with probabilities, labels and mask of each batch, on the devices.

  Returns:
    `top1_error` and `top5_error` in per cent (the latter None for 5 classes or fewer), `loss` (mean negative
    logarithm of the averaged probability of the label) and `examples`. A tie with the label counts as an
    error. None if the evaluation was stopped.

  Raises:
    UserError: the split has no readable image.
  """
  batch_size = batch_size_on(config, mesh.shape[mesh_lib.DATA])
  sums = []
  total = dataset.num_train if split == 'train' else dataset.num_validation
  with tqdm(total=total, desc=f'{split} images', unit='image', disable=None, leave=False) as bar:
    for batch in dataset.eval_batches(batch_size, sharding.local_rows(mesh, batch_size), split):
      jax.block_until_ready(sums[-_IN_FLIGHT:][:1])
      if is_stopping():
        return None
      rows = sharding.shard_batch(mesh, batch)
      probabilities = sum(
        m.weight * m.predict(m.params, m.batch_stats, rows['image'], m.mean_image) for m in models
      )
      sums.append(steps.score(probabilities, rows['label'], rows['mask']))
      if tally:
        tally(probabilities, rows['label'], rows['mask'])
      bar.update(min(batch_size, total - bar.n))
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
    'top5_error': 100 * total['top5'] / examples if classes >= WITH_TOP5 else None,
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
  score = 'top5' if config.model.num_classes >= WITH_TOP5 else 'top1'
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


def _check_ensemble(trained: Sequence[Trained], workdirs: Sequence) -> None:
  """Raises UserError where the networks differ in their canvases (not in `OF_READING`) or their classes."""
  first = trained[0]
  for other, workdir in zip(trained[1:], workdirs[1:], strict=True):
    ours, theirs = (config_lib.flatten(t.meta['config'].data.canvas) for t in (first, other))
    differing = [
      f'config.data.canvas.{key}: {ours[key]!r} and {theirs[key]!r}'
      for key in ours
      if ours[key] != theirs[key] and key not in OF_READING
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


def evaluate(
  config: ConfigDict,
  workdirs: Sequence[str | pathlib.Path],
  which: str = 'best',
  weights: Sequence[float] = (),
  search: bool = False,
  output: str = '',
) -> dict[str, object]:
  """Evaluates one network, or the weighted average of several, and writes the result to a file.

  Args:
    config: a whole config. It names the data (the canvas is that of the networks), the `eval` values
      and the mesh. In an ensemble, each network has the `eval.weights` of its own config, unless `config`
      has others than that of the first.
    workdirs: the folders of the runs, or .safetensors files.
    which: the checkpoint of each run: best, latest or a step.
    weights: one for each workdir, or empty for equal weights. They are scaled to add up to 1.
    search: whether to search the weights that make the fewest errors on the same images, and use them.
    output: the JSON file of the result and of the figures of each class (`per_class.describe`), the latter
      for at most 1000 classes. For an ensemble, it also holds `networks` (the workdirs) and `weights`, and
      for a single network `network` (its `loading.fingerprint`). By default evaluation.json in the workdir,
      if there is one.

  Returns:
    The result of `errors_of`; `weights` if they were searched; `views`; `checkpoint` (the step, or a
    list of steps); `skipped_images`; `dropped_images`, the names that `config.data.drop_bad_validation`
    leaves out; `majority_error` (see `baseline.majority_error`); `macro_f1`, if there
    are at most 1000 classes; and, with `config.eval.baseline`, `baseline_error` (see
    `baseline.ridge_error`).

  Raises:
    UserError: there is no checkpoint, there are no validation images, or the networks do not fit together.
    RunError: a network predicts numbers that are not finite.
  """
  weights = _check_weights(weights, len(workdirs), search)
  if output:
    output_path.check(output, ('.json',))
  trained = _load_all(config, workdirs, which, weights)
  first = trained[0]
  with contextlib.closing(open_data(config, first)) as dataset:
    models, mesh = [t.model for t in trained], make_mesh(first.config)
    if search:
      weights = _search_weights(models, dataset, first.config, mesh)
      shares = (weight / sum(weights) for weight in weights)
      models = [model._replace(weight=x) for model, x in zip(models, shares, strict=True)]
    titles, tally = class_labels(first), _tally(first)
    result = _measure(config, models, dataset, first, mesh, tally)
    if search:
      result['weights'] = weights
  result['checkpoint'] = _one_or_all([t.step for t in trained])
  described: dict[str, Any] = {}
  if tally:
    described = per_class.describe(tally.matrix(), first.meta['class_names'], titles)
    result['macro_f1'] = described['macro_f1']
  figures = result | described
  if len(workdirs) > 1:
    figures |= {'networks': [os.fspath(workdir) for workdir in workdirs], 'weights': list(weights)}
  _write(output or _default_output(workdirs), config, trained, figures)
  return result


def _load_all(
  config: ConfigDict,
  workdirs: Sequence[str | pathlib.Path],
  which: str,
  weights: Sequence[float],
) -> list[Trained]:
  """Loads the networks; raises UserError where they do not fit `config` or one another."""
  trained = [
    load(workdir, which, own, weight / sum(weights))
    for workdir, own, weight in zip(workdirs, _own_configs(config, workdirs), weights, strict=True)
  ]
  _check_ensemble(trained, workdirs)
  check_overrides(config, trained[0])
  for network, workdir in zip(trained[1:], workdirs[1:], strict=True):
    warn_of_another_reading(config, network, workdir)
  for network, workdir in zip(trained, workdirs, strict=True):
    warn_of_another_split(config, network, workdir)
  return trained


def _own_configs(config: ConfigDict, workdirs: Sequence[str | pathlib.Path]) -> list[ConfigDict]:
  """Returns the config to load each network with: `config`, with `eval.weights` as `evaluate` says."""
  if len(workdirs) == 1:
    return [config]
  kinds = [archive.read_config(workdir).eval.weights for workdir in workdirs]
  if config.eval.weights != kinds[0]:
    return [config] * len(workdirs)
  configs = []
  for kind in kinds:
    own = config.copy_and_resolve_references()
    own.eval.weights = kind
    configs.append(own)
  return configs


def _one_or_all(values: list) -> Any:
  """Returns the value of a single network, or the list of those of several."""
  return values[0] if len(values) == 1 else values


def _tally(trained: Trained) -> per_class.Tally | None:
  """Returns what counts the confusions of classes; None for too many classes."""
  classes = trained.config.model.num_classes
  return per_class.Tally() if classes <= per_class.MAX_CLASSES else None


def _measure(
  config: ConfigDict,
  models: Sequence[Model],
  dataset: Dataset,
  first: Trained,
  mesh: jax.sharding.Mesh,
  tally: per_class.Tally | None,
) -> dict[str, Any]:
  """Measures the errors of the average of `models` and of the baselines; see `evaluate`."""
  labels = dataset.validation_labels
  assert labels is not None  # `open_data` has checked it
  logging.info('evaluating %d images with %d view(s)', len(labels), config.eval.views)
  result = errors_of(models, dataset, first.config, mesh, tally=tally)
  assert result is not None  # it was not stopped
  check_finite(result)
  result['views'] = config.eval.views
  result['majority_error'] = baseline.majority_error(first.meta['class_counts'], labels)
  if config.eval.baseline and multihost.is_primary():
    result['baseline_error'] = baseline.ridge_error(dataset, first.config.model.input_size)
  result['skipped_images'] = len(dataset.skipped)
  if dataset.dropped:
    result['dropped_images'] = list(dataset.dropped)
  return result


def _default_output(workdirs: Sequence[str | pathlib.Path]) -> str:
  """Returns WORKDIR/evaluation.json for a single run, else ''."""
  if len(workdirs) > 1 or not os.path.isdir(workdirs[0]):
    return ''
  return os.path.join(workdirs[0], per_class.FILE)


def _write(
  path: str, config: ConfigDict, trained: Sequence[Trained], figures: dict[str, Any]
) -> None:
  """Writes figures, the source, the kind of weights and the fingerprint as JSON, if there is a path."""
  if not path or not multihost.is_primary():
    return
  kinds = _one_or_all([network.config.eval.weights for network in trained])
  origin = {'source': config.data.source, 'eval_weights': kinds}
  # Process 0 cannot read parameters of which another process holds a part.
  leaves = jax.tree.leaves(trained[0].model.params)
  if len(trained) == 1 and all(x.is_fully_addressable or x.is_fully_replicated for x in leaves):
    origin['network'] = fingerprint(trained[0])
  try:
    per_class.write(path, {**origin, **figures})
    logging.info('wrote the result to %s', path)
  except OSError as error:  # the folder of someone else's run may be read-only
    logging.warning('%s cannot be written (%s): name another file with --output', path, error)


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


def open_data(config: ConfigDict, trained: Trained) -> Dataset:
  """Opens the data that `config` names on the canvas of the network.

  Raises:
    UserError: the classes are not those of the network, or there are no validation images.
  """
  data = ConfigDict(config.data.to_dict() | {'canvas': trained.config.data.canvas.to_dict()})
  with multihost.primary_first('data'):
    dataset = open_dataset(data, config.seed)
  if difference := classes_apart(dataset.class_names, trained.meta['class_names']):
    problem = (
      f'other classes than the checkpoint: {difference}: name images of its classes with '
      '--config.data.source'
    )
  elif not dataset.num_validation:
    problem = _why_no_validation(config.data, dataset)
  else:
    return dataset
  dataset.close()
  raise UserError(f'{config.data.source} has {problem}')


def _why_no_validation(data: ConfigDict, dataset: Dataset) -> str:
  """Returns why a dataset has no validation images, and the remedy."""
  form, _, path = data.source.partition(':')
  if dataset.dropped:
    bad = _some(dataset.dropped)
    return f'no validation images: config.data.drop_bad_validation left out all {bad}: repair them'
  if form == 'store':
    return 'no validation images: prepare it with config.data.holdout above 0'
  if form == 'synthetic':
    return 'no validation images: set config.data.synthetic.validation'
  if not data.holdout:
    return 'no validation images, and config.data.holdout=0: set a share'
  remedy = f'add {path}/val to {path}/train' if form == 'folder' else 'name other images'
  return f'no validation images, and too few training images to hold some out: {remedy}'


def _some(names: Sequence[str]) -> str:
  """Returns the number of names and the first five of them."""
  shown = ', '.join(names[:5])
  return f'{len(names)} ({shown}{", ..." if len(names) > 5 else ""})'
