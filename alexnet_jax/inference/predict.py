"""`--mode=predict`: the most probable classes of image files."""

from collections.abc import Container, Mapping, Sequence
import csv
import io
import pathlib
import sys
from typing import Any

from ml_collections import ConfigDict
import numpy as np
from tqdm import tqdm

from alexnet_jax.errors import RunError, UserError
from alexnet_jax.evaluation import evaluate, loading
from alexnet_jax.inference import picture as picture_lib
from alexnet_jax.inference.classifier import Classifier, most_probable
from alexnet_jax.inference.files import Reader, find_images
from alexnet_jax.utils import atomic_io, output_path


def predict(
  config: ConfigDict,
  workdir: str,
  images: Sequence[str],
  which: str = 'best',
  picture: str = '',
  output: str = '',
) -> dict[str, object]:
  """Predicts the classes of image files, and prints them on stderr.

  Args:
    config: a whole config; `loading.load` says which values are used.
    workdir: folder of the run, or a .safetensors file.
    images: files, folders and globs.
    which: the checkpoint: best, latest or a step.
    picture: path of a picture of some images with their most probable classes, or ''. It shows images of
      every folder in turn.
    output: path of a .csv file with one line for each image, or ''.

  Returns:
    `{'images': [{'path', 'top': [{'label', 'probability'}, ...]}], 'skipped': [{'path', 'reason'}],
    'views', 'checkpoint'}`, and with a picture or a .csv file also its path, `picture` or `output`. `top`
    holds at most five classes. An image whose folder is named after a class also has that class, `label`;
    `labelled` is the number of such images, and `top1_error` and `top5_error` are measured on them, in per
    cent (the latter None for five classes or fewer).

  Raises:
    UserError: no image can be read, or there is no such checkpoint.
  """
  if picture:
    picture_lib.check(picture)
  if output:
    output_path.check(output, ('.csv',))
  paths = find_images(images)
  trained = loading.load(workdir, which, config)
  loading.check_overrides(config, trained)
  classifier = Classifier(trained)
  reader = Reader(paths, classifier.canvas, classifier.batch_size(len(paths)))
  label_of = dict(zip(classifier.class_names, classifier.labels, strict=True))
  shown = set(picture_lib.choose(paths)) if picture else set()
  results, ranks, panels = _predict_all(reader, classifier, label_of, shown)
  if not results:
    raise UserError(f'none of the {len(paths)} images can be read: {reader.skipped[0]["reason"]}')
  summary = {
    'images': results,
    'skipped': reader.skipped,
    'views': trained.config.eval.views,
    'checkpoint': trained.step,
    **_errors(ranks, len(label_of)),
  }
  if panels:  # there are none if all chosen images were skipped
    picture_lib.draw(picture, panels)
    summary['picture'] = picture
  if output:
    _write_csv(output, results)
    summary['output'] = output
  return summary


def _predict_all(
  reader: Reader, classifier: Classifier, label_of: Mapping[str, str], shown: Container[str]
) -> tuple[list[dict[str, Any]], list[int], list[picture_lib.Panel]]:
  """Predicts and prints all images.

  Args:
    reader: the images.
    classifier: the network.
    label_of: the label of each class by its name.
    shown: the paths of the images of the picture.

  Returns:
    The results, the ranks of the images whose class is known (see `_errors`), and the panels of the picture.
  """
  results: list[dict[str, Any]] = []
  ranks: list[int] = []
  panels: list[picture_lib.Panel] = []
  for names, canvases in reader:
    for path, canvas, row in zip(names, canvases, classifier.classify(canvases), strict=False):
      if not np.isfinite(row).all():
        raise RunError(
          'the network predicts numbers that are not finite: name an earlier checkpoint with --checkpoint'
        )
      result = {'path': path, 'top': most_probable(row, classifier.labels)}
      folder = pathlib.Path(path).absolute().parent.name
      if folder in label_of:
        result['label'] = label_of[folder]
        ranks.append(int((row >= row[classifier.class_names.index(folder)]).sum()))
      results.append(result)
      _print(result)
      if path in shown:
        panels.append(picture_lib.Panel(canvas, result['top'], label_of.get(folder)))
  return results, ranks, panels


def _errors(ranks: Sequence[int], classes: int) -> dict[str, Any]:
  """Returns the errors on the images whose class is known; empty if there are none.

  Args:
    ranks: for each image, the number of classes that are at least as probable as its own, with its own. A
      tie therefore counts as an error, as in an evaluation.
    classes: number of classes.
  """
  if not ranks:
    return {}
  top1, top5 = (100 * sum(rank > k for rank in ranks) / len(ranks) for k in (1, 5))
  top5_error = top5 if classes >= evaluate.WITH_TOP5 else None
  print(f'{len(ranks)} images lie in folders of classes: {top1:.2f} % errors', file=sys.stderr)
  return {'labelled': len(ranks), 'top1_error': top1, 'top5_error': top5_error}


def _write_csv(path: str, results: Sequence[Mapping]) -> None:
  """Writes one line for each image: its path, its class if it is known, and its most probable classes."""
  text, most = io.StringIO(), max(len(result['top']) for result in results)
  writer = csv.writer(text, lineterminator='\n')
  columns = [f'{name}{k}' for k in range(1, most + 1) for name in ('class', 'probability')]
  writer.writerow(['path', 'label', *columns])
  for result in results:
    cells = [x for guess in result['top'] for x in (guess['label'], guess['probability'])]
    writer.writerow([result['path'], result.get('label', ''), *cells])
  atomic_io.write(pathlib.Path(path), text.getvalue())


def _print(result: dict) -> None:
  lines = [f'{100 * guess["probability"]:7.2f} %  {guess["label"]}' for guess in result['top']]
  tqdm.write('\n'.join([result['path'], *lines]), file=sys.stderr)
