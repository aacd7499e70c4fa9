"""What a trained network says of images: the likeliest classes, or the vectors of a layer."""

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


def likeliest(probabilities: np.ndarray, labels: Sequence[str]) -> list[dict]:
  """The five likeliest classes, of equals the first: `[{'label', 'probability'}, ...]`."""
  best = np.argsort(-probabilities, kind='stable')[:_TOP]
  return [{'label': labels[k], 'probability': float(probabilities[k])} for k in best]


def class_labels(trained: evaluate.Trained) -> list[str]:
  """What to call the classes: in words where they are ImageNet's."""
  names = trained.meta['class_names']
  place = pathlib.Path(trained.config.data.source.partition(':')[2])
  return imagenet.titles(tuple(names), place, trained.config.data.devkit) or names


def predict(
  config: ConfigDict, workdir: str, images: Sequence[str], which: str = 'best', picture: str = ''
) -> dict[str, object]:
  """The likeliest classes of image files; a table of them goes to stderr.

  Args:
    config: `eval.views` and `eval.batch_size` are used, and the mesh.
    workdir: of the run.
    images: files, folders and globs.
    which: checkpoint: best, latest or a step.
    picture: a file for the first images with their likeliest classes, as `inference.picture` draws them.
      The true class is known of images in folders that are named as the classes are.

  Returns:
    `{'images': [{'path', 'top': [{'label', 'probability'}, ...]}], 'skipped': [{'path', 'reason'}],
    'views', 'checkpoint'}`, and `picture`, the file, where one was asked for: the five likeliest, or all
    where there are fewer.

  Raises:
    UserError: nothing to read, or no such checkpoint.
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
    if picture:
      shown.extend(canvases[: min(len(names), picture_lib.MOST - len(shown))])
    for path, row in zip(names, probabilities, strict=False):
      results.append({'path': path, 'top': likeliest(row, labels)})
      _show(results[-1])
  if not results:
    raise UserError(f'none of the {len(paths)} images can be read: {reader.skipped[0]["reason"]}')
  if picture:
    words = dict(zip(trained.meta['class_names'], labels, strict=True))
    truths = [words.get(pathlib.Path(r['path']).absolute().parent.name) for r in results]
    tops = [r['top'] for r in results[: len(shown)]]
    picture_lib.draw(picture, shown, tops, truths[: len(shown)])
  return {
    'images': results,
    'skipped': reader.skipped,
    'views': trained.config.eval.views,
    'checkpoint': trained.step,
    **({'picture': picture} if picture else {}),
  }


def _show(result: dict) -> None:
  lines = [f'{100 * guess["probability"]:7.2f} %  {guess["label"]}' for guess in result['top']]
  tqdm.write('\n'.join([result['path'], *lines]), file=sys.stderr)
