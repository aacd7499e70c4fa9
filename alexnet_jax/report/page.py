"""`--mode=report`: writes WORKDIR/report/index.html, one self-contained page about a run.

The errors are measured here, by the network of the checkpoint on the validation images of the config; the
curves come from metrics.jsonl, and date and machine from sessions.jsonl. The page needs no other files and no
network. Without scripts, everything works but the enlarging of pictures.
"""

import contextlib
import os
import pathlib
from typing import Any

from absl import logging
import jax
from ml_collections import ConfigDict
import numpy as np
from tqdm import tqdm

from alexnet_jax import steps
from alexnet_jax.data import Dataset, sources
from alexnet_jax.evaluation import baseline, evaluate, loading, per_class
from alexnet_jax.inference.classifier import feature_function
from alexnet_jax.report import (
  curves,
  duplicates,
  headline,
  kernels,
  mistakes,
  neighbours,
  paper,
  pictures,
  settings,
)
from alexnet_jax.utils import atomic_io, output_path
from alexnet_jax.utils.optional_import import import_module
from alexnet_jax.workdir import archive, sessions
from alexnet_jax.workdir import metrics as metrics_lib
from alexnet_jax.workdir.checkpoint import Checkpoints

_CLASSES = 20  # largest number of classes in the table of classes
_MATRIX = 12  # largest number of classes for which the page shows the confusion matrix
_PAIRS = 10  # largest number of confused pairs, and of listed images that are in both splits


def report(
  config: ConfigDict, workdir: str, which: str = 'best', output: str = ''
) -> dict[str, object]:
  """Writes the report on a trained network.

  Args:
    config: `data` names the images, `report` sets their numbers, and `eval.views` the test views. With
      `eval.baseline`, the error of ridge regression is measured too.
    workdir: folder of the run, or a .safetensors file.
    which: the checkpoint: best, latest or a step.
    output: the page to write. By default WORKDIR/report/index.html, or FILE.html beside FILE.safetensors.

  Returns:
    `{'output', 'checkpoint', 'bytes', 'top1_error', 'top5_error', 'views', 'examples', 'specialisation',
    'in_both_splits'}`, and also `codes` if `report.bits` is set.

  Raises:
    UserError: there is no checkpoint, there are no validation images, the classes of the images differ
      from those of the checkpoint, or Jinja is not installed.
    RunError: the network predicts non-finite numbers.
  """
  template, path = _template(), _path_of_page(workdir, output)
  trained = loading.load_alone(workdir, which, config)
  warnings = loading.warn_of_another_split(config, trained)
  if config.data.shuffle == 'stored':  # the first images are not a random part: often one class
    config = config.copy_and_resolve_references()
    config.data.shuffle = 'global'
  if archive.is_archive(workdir):
    which = str(trained.step)  # a file does not say how its checkpoint was chosen
  with contextlib.closing(evaluate.open_data(config, trained)) as dataset:
    logging.info('evaluating %d images', dataset.num_validation)
    page = _Page(config, trained, dataset, which)
    values = page.values(pathlib.Path(workdir)) | {'warnings': warnings}
  # Names of classes that are not UTF-8 hold code points that cannot be encoded.
  html = template.render(**values).encode('utf-8', 'replace')
  with atomic_io.replacing(path) as file:
    file.write(html)
  keys = (
    'top1_error', 'top5_error', 'views', 'examples', 'specialisation', 'in_both_splits', 'codes',
  )  # fmt: skip
  found = {key: values[key] for key in keys if values[key] is not None or key != 'codes'}
  return {'output': str(path), 'checkpoint': trained.step, 'bytes': len(html), **found}


def _path_of_page(workdir: str, output: str) -> pathlib.Path:
  """Returns the path of the page; see `report`."""
  if output:
    return output_path.check(output, ('.html',))
  if archive.is_archive(workdir):
    return output_path.check(str(pathlib.Path(workdir).with_suffix('.html')))
  page = pathlib.Path(workdir) / 'report' / 'index.html'
  return output_path.check(str(page)) if os.path.isdir(workdir) else page


def _template() -> Any:
  jinja2 = import_module('jinja2', 'report', '--mode=report')
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  return environment.get_template('page.html')


class _Page:
  """Computes the values of the page template."""

  def __init__(self, config: ConfigDict, trained: loading.Trained, dataset: Dataset, which: str):
    self.settings, self.trained, self.dataset = config.report, trained, dataset
    self.source, self.which = config.data.source, which
    self.layer = trained.config.model.layers[-2]
    self.activations = feature_function(trained, self.layer)
    self.labels = loading.class_labels(trained)
    own, here = map(sources.short_name, (trained.meta['config'].data.source, self.source))
    self.other = here if here != own else ''  # the name of images that the run did not use
    self.pictures = pictures.Pictures(dataset, self.source, self.labels)
    self.digests: dict[str, list[tuple[bytes, int]]] = {'validation': [], 'train': []}

  def values(self, workdir: pathlib.Path) -> dict[str, object]:
    """Returns the variables of the template."""
    errors, seen = self._validation()
    labels, index, predicted = seen.labels, seen.indices, seen.best[:, 0]
    shown = self._some(len(labels))
    worst = np.argsort(seen.own, kind='stable')[: self.settings.images]
    vectors = self._vectors(self.dataset.canvases('validation', index[shown]))
    own, run = self.trained.config, self.trained.meta['config']
    base, differences = settings.differences(run)
    return {
      'title': f'{own.recipe} on {sources.short_name(own.data.source)}',
      'settings': settings.main(self.trained, self.source),
      'base': base,
      'differences': differences,
      'chosen_here': settings.chosen_here(self.trained, self.which, self.source),
      'other': self.other,
      'views': own.eval.views,
      'weights': own.eval.weights,
      'train_views': run.eval.train_views,
      'train_weights': run.eval.weights,
      'layer': self.layer,
      'labels': self.labels,
      'columns': pictures.columns(len(shown)),
      'predictions': [self.pictures.card(seen, at) for at in shown],
      'worst': [self.pictures.card(seen, at) for at in worst],
      'wrong': round(errors['top1_error'] * errors['examples'] / 100),
      'pairs': mistakes.confused_pairs(predicted, labels, self.labels, _PAIRS),
      'confidence': mistakes.confidence(seen.top[:, 0], predicted == labels),
      **errors,
      **self._headline(errors, labels),
      **self._training(workdir),
      **self._kernels(),
      **self._classes(predicted, labels),
      **self._neighbours(shown, index, labels, vectors, *self._stored()),
      **self._in_both_splits(),
    }

  def _headline(self, errors: dict, labels: np.ndarray) -> dict[str, object]:
    """Returns the comparison with guessing, baselines and published results."""
    meta, own = self.trained.meta, self.trained.config
    majority = baseline.majority_error(meta['class_counts'], labels)
    ridge = baseline.ridge_error(self.dataset, own.model.input_size) if own.eval.baseline else None
    bars = headline.bars(errors['top1_error'], len(self.labels), majority, ridge)
    within = headline.interval(errors['top1_error'], errors['examples'])
    published = paper.images_of(own.recipe, meta['class_names'])
    return {
      'bars': bars,
      'interval': within,
      'verdict': headline.verdict(bars, within),
      'published': published,
      'rows': paper.rows_of(own.recipe, published) if published else (),
    }

  def _training(self, workdir: pathlib.Path) -> dict[str, object]:
    """Returns the facts of the training and its curves."""
    written = None
    if not archive.is_archive(workdir):
      with Checkpoints(workdir, read_only=True) as checkpoints:
        written = checkpoints.written(self.trained.step)
    facts = headline.facts(self.trained, self.which, sessions.read(workdir), written)
    rows, epoch = curves.read(workdir / metrics_lib.FILE), self.trained.meta['epoch']
    return {'facts': facts, 'curves': curves.draw(rows, len(self.labels), epoch), 'epoch': epoch}

  def _kernels(self) -> dict[str, object]:
    """Returns the kernels of conv1 as pictures, and how far the towers specialise in colour."""
    params = self.trained.model.params
    has_kernels = 'conv1' in params
    in_colour = has_kernels and not self.trained.config.model.gray
    return {
      'kernels': pictures.of_kernels(np.asarray(params['conv1']['kernel'])) if has_kernels else [],
      'specialisation': kernels.specialisation(params) if in_colour else None,
    }

  def _classes(self, predicted: np.ndarray, labels: np.ndarray) -> dict[str, object]:
    """Returns the figures of each class, the lowest F1 first, and the confusion matrix if it is small."""
    size = len(self.labels)
    matrix = None
    if size <= _MATRIX:
      matrix = np.zeros((size, size), np.int64)
      np.add.at(matrix, (labels, predicted), 1)
    right, images, guessed = (
      np.bincount(some, minlength=size) for some in (labels[labels == predicted], labels, predicted)
    )
    described = per_class.figures(
      right, images, guessed, self.trained.meta['class_names'], self.labels
    )
    rows = [row for row in described['classes'] if row['images']]
    rows.sort(key=lambda row: row['f1'])
    return {
      'macro_f1': described['macro_f1'],
      'classes': rows[:_CLASSES],
      'all_classes': len(rows),
      'confusion': None if matrix is None else matrix.tolist(),
    }

  def _some(self, number: int) -> np.ndarray:
    """Returns the positions of a few random images, drawn with a fixed seed, int64 `[n]`."""
    few = min(self.settings.images, number)
    return np.sort(np.random.default_rng(0).choice(number, few, replace=False))

  def _validation(self) -> tuple[dict, mistakes.Predictions]:
    """Returns the errors, and the predictions for every validation image."""
    model, sums, rows = self.trained.model, [], []
    total, size = self.dataset.num_validation, self.trained.config.eval.batch_size
    batches = self.dataset.eval_batches(size)
    for batch in tqdm(batches, 'validation images', -(-total // size), unit='batch', disable=None):
      mask, labels = batch['mask'], batch['label']
      probabilities = model.predict(
        model.params, model.batch_stats, batch['image'], model.mean_image
      )
      sums.append(steps.score(probabilities, labels, mask))
      top, best = jax.lax.top_k(probabilities, min(pictures.BARS, len(self.labels)))
      own = probabilities[np.arange(len(labels)), labels]
      rows.append([np.asarray(x)[mask] for x in (labels, batch['index'], own, best, top)])
      self._note('validation', batch, mask)
    errors = evaluate.errors_from(sums, len(self.labels))
    evaluate.check_finite(errors)
    return errors, mistakes.Predictions(*map(np.concatenate, zip(*rows, strict=True)))

  def _note(self, split: str, batch: dict[str, np.ndarray], mask: np.ndarray) -> None:
    """Keeps the digests of the images of a batch, to find those that are in both splits."""
    found = duplicates.digests(batch['image'][mask])
    self.digests[split] += zip(found, batch['index'][mask], strict=True)

  def _in_both_splits(self) -> dict[str, object]:
    """Returns the number of validation images that are also training images, and the names of some pairs.

    `compared` is the number of training images that were compared; None stands for all.
    """
    train = dict(self.digests['train'])
    both = [(index, train[key]) for key, index in self.digests['validation'] if key in train]
    names = [
      (self.pictures.name('validation', i), self.pictures.name('train', j))
      for i, j in both[:_PAIRS]
    ]
    compared = len(self.digests['train'])
    return {
      'in_both_splits': len(both),
      'both_names': names,
      'compared': compared if self.settings.train_images < self.dataset.num_train else None,
    }

  def _vectors(self, images: np.ndarray) -> np.ndarray:
    """Returns the activations of the last hidden layer for some canvases, float32 `[B, D]`."""
    return self.activations(images).reshape(len(images), -1)

  def _stored(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns vectors, labels and indices of the training images, or of a random part of them."""
    total = left = min(self.settings.train_images, self.dataset.num_train)
    batch_size, found = self.trained.config.eval.batch_size, 0
    vectors = np.zeros((total, 0), np.float32)
    labels, index = [], []
    with (
      contextlib.closing(self.dataset.train_batches(0, batch_size)) as batches,
      tqdm(total=left, desc='training images', unit='image', disable=None) as bar,
    ):
      while left > 0:  # the first epoch holds every image once
        batch = next(batches)
        mask = batch['mask'] & (np.arange(batch_size) < left)
        bar.update(min(batch_size, left))
        left -= batch_size
        rows = self._vectors(batch['image'])[mask]
        if not vectors.size:  # a list of batches would take twice the memory when they are joined
          vectors = np.empty((total, rows.shape[1]), np.float32)
        vectors[found : found + len(rows)] = rows
        found += len(rows)
        labels.append(batch['label'][mask])
        index.append(batch['index'][mask])
        self._note('train', batch, mask)
    return vectors[:found], np.concatenate(labels), np.concatenate(index)

  def _neighbours(self, shown, index, labels, vectors, stored, stored_labels, stored_index) -> dict:
    """Returns the values for Figure 4 (right): nearest images of the images `shown`, also by binary codes."""
    count = self.settings.neighbours
    nearest, distances = neighbours.Index(stored).nearest(vectors, count)
    rows = []
    for at, row, row_distances in zip(shown, nearest, distances, strict=True):
      canvas = self.pictures.canvas('validation', index[at])
      found = [
        self.pictures.of('train', stored_index[i], stored_labels[i])
        | {'distance': f'{round(distance, 4):.3g}', 'same': bool(stored_labels[i] == labels[at])}
        | {'like': duplicates.likeness(canvas, self.pictures.canvas('train', stored_index[i]))}
        for i, distance in zip(row, row_distances, strict=True)
      ]
      query = self.pictures.of('validation', index[at], labels[at])
      rows.append({'query': query, 'found': found})
    codes = None
    if self.settings.bits:
      encode = neighbours.train_codes(stored, self.settings.bits)
      short, _ = neighbours.Codes(encode(stored)).nearest(encode(vectors), 10 * count)
      codes = {'bits': self.settings.bits, 'share': neighbours.agreement(short, nearest)}
      codes['numbers'] = stored.shape[1]
    return {'neighbours': rows, 'stored': len(stored), 'codes': codes}
