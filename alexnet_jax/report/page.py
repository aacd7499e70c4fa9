"""`--mode=report`: writes WORKDIR/report/index.html, one self-contained page about a run.

The errors are measured here, by the network of the checkpoint on the validation images of the config;
the curves come from metrics.jsonl. The page needs no other files and no network. Without scripts,
everything works but the enlarging of pictures.
"""

import base64
import contextlib
import functools
import io
import math
import os
import pathlib
from typing import Any

from absl import logging
import jax
from ml_collections import ConfigDict
import numpy as np
from PIL import Image
from tqdm import tqdm

from alexnet_jax import steps
from alexnet_jax.data import Dataset, open_dataset
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import baseline, evaluate, loading, per_class
from alexnet_jax.inference import features as features_lib
from alexnet_jax.report import curves, kernels, mistakes, neighbours, paper, settings
from alexnet_jax.utils import output_path
from alexnet_jax.utils.optional_import import import_module
from alexnet_jax.workdir import archive
from alexnet_jax.workdir import metrics as metrics_lib

_MAX_SIDE = 256  # largest side of a picture on the page, in pixels
_BARS = 5
_CLASSES = 30  # largest number of classes in the table of classes
_MATRIX = 12  # largest number of classes for which the page shows the confusion matrix


def report(
  config: ConfigDict, workdir: str, which: str = 'best', output: str = ''
) -> dict[str, object]:
  """Writes the report on a trained network.

  Args:
    config: `data` names the images, `report` sets their numbers, and `eval.views` the test views.
    workdir: folder of the run, or a .safetensors file.
    which: the checkpoint: best, latest or a step.
    output: the page to write. By default WORKDIR/report/index.html, or FILE.html beside FILE.safetensors.

  Returns:
    `{'output', 'checkpoint', 'bytes', 'top1_error', 'top5_error', 'views', 'examples', 'specialisation'}`,
    and also `codes` if `report.bits` is set.

  Raises:
    UserError: there is no checkpoint, there are no validation images, the classes of the images differ
      from those of the checkpoint, or Jinja or matplotlib is not installed.
    RunError: the network predicts non-finite numbers.
  """
  template, path = _template(), _path_of_page(workdir, output)
  curves.plotter()
  trained = loading.load_alone(workdir, which, config)
  data = ConfigDict(config.data.to_dict() | {'canvas': trained.config.data.canvas.to_dict()})
  with contextlib.closing(open_dataset(data, config.seed)) as dataset:
    if apart := evaluate.classes_apart(dataset.class_names, trained.meta['class_names']):
      raise UserError(
        f'{data.source} has other classes than the run in {workdir} ({apart}): name images of its '
        'classes with --config.data.source'
      )
    if not dataset.num_validation:
      raise UserError(f'{data.source} has no validation images to report on: add PATH/val')
    logging.info('evaluating %d images', dataset.num_validation)
    page = _Page(config, trained, dataset, which)
    values = page.values(pathlib.Path(workdir))
  html = template.render(**values)
  path.parent.mkdir(exist_ok=True)
  temporary = path.with_suffix('.tmp')
  temporary.write_text(html)
  os.replace(temporary, path)
  keys = ('top1_error', 'top5_error', 'views', 'examples', 'specialisation', 'codes')
  found = {key: values[key] for key in keys if values[key] is not None or key != 'codes'}
  return {'output': str(path), 'checkpoint': trained.step, 'bytes': len(html.encode()), **found}


def _path_of_page(workdir: str, output: str) -> pathlib.Path:
  """Returns the path of the page; see `report`."""
  if output:
    return output_path.check(output, ('.html',))
  if archive.is_archive(workdir):
    return output_path.check(str(pathlib.Path(workdir).with_suffix('.html')))
  return pathlib.Path(workdir) / 'report' / 'index.html'


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
    self.labels = loading.class_labels(trained)

  def values(self, workdir: pathlib.Path) -> dict[str, object]:
    """Returns the variables of the template."""
    errors, probabilities, labels, index = self._validation()
    loss = mistakes.losses(probabilities, labels)
    shown = self._some(len(labels))
    worst = np.argsort(-loss, kind='stable')[: self.settings.images]
    vectors = self._vectors(self.dataset.canvases('validation', index[shown]))
    meta, own, source = self.trained.meta, self.trained.config, self.source
    parameters = sum(leaf.size for leaf in jax.tree.leaves(self.trained.model.params))
    published = paper.images_of(own.recipe, meta['class_names'])
    base, differences = settings.differences(meta['config'])
    return {
      'title': f'{own.recipe} on {own.data.source.rpartition("/")[2]}',
      'settings': settings.facts(self.trained, self.which, source, len(self.labels), parameters),
      'base': base,
      'differences': differences,
      'chosen_here': settings.chosen_here(self.trained, self.which, source),
      'top1_error': errors['top1_error'],
      'top5_error': errors['top5_error'],
      'views': own.eval.views,
      'train_views': own.eval.train_views,
      'examples': errors['examples'],
      'majority': baseline.majority_error(meta['class_counts'], labels),
      'published': published,
      'rows': paper.rows_of(own.recipe, published) if published else (),
      'curves': curves.draw(workdir / metrics_lib.FILE),
      'specialisation': kernels.specialisation(self.trained.model.params)
      if 'conv1' in self.trained.model.params and not own.model.gray
      else None,
      'kernels': self._kernels(),
      'layer': self.layer,
      'predictions': self._cards(shown, index, labels, probabilities),
      'worst': self._cards(worst, index, labels, probabilities),
      'wrong': round(errors['top1_error'] * errors['examples'] / 100),
      'pairs': mistakes.confused_pairs(probabilities, labels, self.labels, 10),
      **self._classes(probabilities, labels),
      **self._neighbours(shown, index, labels, vectors, *self._stored()),
    }

  def _classes(self, probabilities: np.ndarray, labels: np.ndarray) -> dict[str, object]:
    """Returns the figures of each class, the lowest F1 first, and the confusion matrix if it is small."""
    size = len(self.labels)
    matrix = np.zeros((size, size), np.int64)
    np.add.at(matrix, (labels, probabilities.argmax(1)), 1)
    described = per_class.describe(matrix, self.trained.meta['class_names'], self.labels)
    rows = [row for row in described['classes'] if row['images']]
    rows.sort(key=lambda row: row['f1'])
    return {
      'macro_f1': described['macro_f1'],
      'classes': rows[:_CLASSES],
      'all_classes': len(rows),
      'confusion': described['confusion'] if size <= _MATRIX else None,
      'labels': self.labels,
    }

  def _some(self, number: int) -> np.ndarray:
    """Returns the positions of a few random images, drawn with a fixed seed, int64 `[n]`."""
    few = min(self.settings.images, number)
    return np.sort(np.random.default_rng(0).choice(number, few, replace=False))

  def _validation(self) -> tuple[dict, np.ndarray, np.ndarray, np.ndarray]:
    """Returns the errors, and the probabilities, label and index of every validation image."""
    model, sums, rows = self.trained.model, [], []
    total, size = self.dataset.num_validation, self.trained.config.eval.batch_size
    batches = self.dataset.eval_batches(size)
    for batch in tqdm(batches, 'validation images', -(-total // size), unit='batch', disable=None):
      mask = batch['mask']
      probabilities = model.predict(
        model.params, model.batch_stats, batch['image'], model.mean_image
      )
      sums.append(steps.score(probabilities, batch['label'], mask))
      rows.append((np.asarray(probabilities)[mask], batch['label'][mask], batch['index'][mask]))
    errors = evaluate.errors_from(sums, len(self.labels))
    evaluate.check_finite(errors)
    probabilities, labels, index = map(np.concatenate, zip(*rows, strict=True))
    return errors, probabilities, labels, index

  @functools.cached_property
  def _features(self):
    return features_lib.feature_function(self.trained.config, self.layer)

  def _vectors(self, images: np.ndarray) -> np.ndarray:
    """Returns the activations of the last hidden layer for some canvases, float32 `[B, D]`."""
    model = self.trained.model
    variables = {'params': model.params, 'batch_stats': model.batch_stats}
    out = self._features(variables, model.mean_image, images)
    return np.asarray(out, np.float32).reshape(len(images), -1)

  def _stored(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns vectors, labels and indices of the training images, or of a random part of them."""
    left = min(self.settings.train_images, self.dataset.num_train)
    batch_size = self.trained.config.eval.batch_size
    vectors, labels, index = [], [], []
    with (
      contextlib.closing(self.dataset.train_batches(0, batch_size)) as batches,
      tqdm(total=left, desc='training images', unit='image', disable=None) as bar,
    ):
      while left > 0:  # the first epoch holds every image once
        batch = next(batches)
        mask = batch['mask'] & (np.arange(batch_size) < left)
        bar.update(min(batch_size, left))
        left -= batch_size
        vectors.append(self._vectors(batch['image'])[mask])
        labels.append(batch['label'][mask])
        index.append(batch['index'][mask])
    return np.concatenate(vectors), np.concatenate(labels), np.concatenate(index)

  def _neighbours(self, shown, index, labels, vectors, stored, stored_labels, stored_index) -> dict:
    """Returns the values for Figure 4 (right): nearest images of the images `shown`, also by binary codes."""
    count = self.settings.neighbours
    nearest, distances = neighbours.Index(stored).nearest(vectors, count)
    rows = []
    for at, row, row_distances in zip(shown, nearest, distances, strict=True):
      query = self._picture('validation', index[at], self.labels[labels[at]])
      found = [
        self._picture('train', stored_index[i], self.labels[stored_labels[i]])
        | {'distance': f'{distance:.3g}', 'same': bool(stored_labels[i] == labels[at])}
        for i, distance in zip(row, row_distances, strict=True)
      ]
      rows.append({'query': query, 'found': found})
    codes = None
    if self.settings.bits:
      encode = neighbours.train_codes(stored, self.settings.bits)
      short, _ = neighbours.Codes(encode(stored)).nearest(encode(vectors), 10 * count)
      codes = {'bits': self.settings.bits, 'share': neighbours.agreement(short, nearest)}
      codes['numbers'] = stored.shape[1]
    return {'neighbours': rows, 'stored': len(stored), 'codes': codes}

  def _cards(self, shown, index, labels, probabilities) -> list[dict[str, object]]:
    """Returns images with their most probable classes, as bars."""
    cards = []
    for at in shown:
      best = np.argsort(-probabilities[at], kind='stable')[:_BARS]
      bars = [
        {
          'label': self.labels[k],
          'percent': float(100 * probabilities[at, k]),
          'right': bool(k == labels[at]),
        }
        for k in best
      ]
      cards.append(
        self._picture('validation', index[at], self.labels[labels[at]])
        | {'bars': bars, 'loss': float(mistakes.losses(probabilities[[at]], labels[[at]])[0])}
      )
    return cards

  def _picture(self, split: str, index: int, label: str) -> dict[str, object]:
    image = Image.fromarray(self.dataset.canvases(split, [int(index)])[0])
    image.thumbnail((_MAX_SIDE, _MAX_SIDE))
    kind = 'training' if split == 'train' else split
    return {
      'src': _data_uri(image, 'JPEG'),
      'label': label,
      'alt': f'{kind} image {index}: {label}',
    }

  def _kernels(self) -> list[dict[str, str]]:
    """Returns one picture for each tower; none if there is no layer conv1."""
    kernel = self.trained.model.params.get('conv1', {}).get('kernel')
    if kernel is None:
      return []
    pictures = []
    for number, tower in enumerate(np.asarray(kernel), 1):
      image = Image.fromarray(kernels.picture(tower))
      scale = max(1, math.ceil(480 / image.width))
      image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
      size, maps = tower.shape[0], tower.shape[-1]
      pictures.append(
        {
          'src': _data_uri(image, 'PNG'),
          'alt': f'{maps} kernels of {size}x{size} pixels, tower {number}',
          'tower': str(number),
        }
      )
    return pictures


def _data_uri(image: Image.Image, form: str) -> str:
  stream = io.BytesIO()
  image.save(stream, form, **({'quality': 85} if form == 'JPEG' else {}))
  return f'data:image/{form.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}'
