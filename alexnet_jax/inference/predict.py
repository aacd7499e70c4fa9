"""`--mode=predict`: the most probable classes of image files."""

from collections.abc import Sequence
import pathlib
import sys
from typing import Any

from ml_collections import ConfigDict
import numpy as np
from tqdm import tqdm

from alexnet_jax.data import Canvas, imagenet
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.distributed import sharding
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import evaluate
from alexnet_jax.inference import picture as picture_lib
from alexnet_jax.inference.files import Reader, find_images

_TOP = 5


def most_probable(probabilities: np.ndarray, labels: Sequence[str]) -> list[dict]:
  """Returns the five most probable classes of an image.

  Args:
    probabilities: float `[classes]`.
    labels: names of the classes.

  Returns:
    `[{'label', 'probability'}, ...]`, the most probable first; ties keep the order of the classes.
  """
  best = np.argsort(-probabilities, kind='stable')[:_TOP]
  return [{'label': labels[k], 'probability': float(probabilities[k])} for k in best]


def class_labels(trained: evaluate.Trained) -> list[str]:
  """Returns the names of the classes; ImageNet classes are named in words (`tench, Tinca tinca`)."""
  names = trained.meta['class_names']
  path = pathlib.Path(trained.config.data.source.partition(':')[2])
  return imagenet.titles(tuple(names), path, trained.config.data.devkit) or names


def predict(
  config: ConfigDict, workdir: str, images: Sequence[str], which: str = 'best', picture: str = ''
) -> dict[str, object]:
  """Predicts the classes of image files, and prints them on stderr.

  Args:
    config: `eval.views`, `eval.batch_size` and `mesh` are used.
    workdir: folder of the run.
    images: files, folders and globs.
    which: the checkpoint: best, latest or a step.
    picture: path of a picture of the first images with their most probable classes, or ''. An image
      has a true class if its folder is named after one.

  Returns:
    `{'images': [{'path', 'top': [{'label', 'probability'}, ...]}], 'skipped': [{'path', 'reason'}],
    'views', 'checkpoint'}`, and with a picture also its path, `picture`. `top` holds at most five
    classes.

  Raises:
    UserError: no image can be read, or there is no such checkpoint.
  """
  if picture:
    picture_lib.check(picture)
  paths = find_images(images)
  trained = evaluate.load(workdir, which, config)
  evaluate.check_overrides(config, trained.config)
  batch_size = evaluate.batch_size_on(trained.config, trained.mesh.shape[mesh_lib.DATA])
  reader = Reader(paths, Canvas.from_config(trained.config.data.canvas), batch_size)
  model, labels = trained.model, class_labels(trained)
  results: list[dict[str, Any]] = []
  shown: list[np.ndarray] = []
  for names, canvases in reader:
    batch = sharding.shard_batch(trained.mesh, {'image': canvases})
    probabilities = np.asarray(
      model.predict(model.params, model.batch_stats, batch['image'], model.mean_image)
    )
    for path, row in zip(names, probabilities, strict=False):
      results.append({'path': path, 'top': most_probable(row, labels)})
      _print(results[-1])
    if picture:
      shown.extend(canvases[: min(len(names), picture_lib.MAX_IMAGES - len(shown))])
  if not results:
    raise UserError(f'none of the {len(paths)} images can be read: {reader.skipped[0]["reason"]}')
  summary = {
    'images': results,
    'skipped': reader.skipped,
    'views': trained.config.eval.views,
    'checkpoint': trained.step,
  }
  if picture:
    label_of = dict(zip(trained.meta['class_names'], labels, strict=True))
    folders = [pathlib.Path(r['path']).absolute().parent.name for r in results[: len(shown)]]
    tops = [r['top'] for r in results[: len(shown)]]
    picture_lib.draw(picture, shown, tops, [label_of.get(folder) for folder in folders])
    summary['picture'] = picture
  return summary


def _print(result: dict) -> None:
  lines = [f'{100 * guess["probability"]:7.2f} %  {guess["label"]}' for guess in result['top']]
  tqdm.write('\n'.join([result['path'], *lines]), file=sys.stderr)
