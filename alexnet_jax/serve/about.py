"""What the page says about its network: classes, error, training data and architecture."""

from collections.abc import Mapping, Sequence
import json
import pathlib
from typing import Any

import jax

from alexnet_jax.data import sources
from alexnet_jax.evaluation import loading, per_class
from alexnet_jax.evaluation.loading import Trained
from alexnet_jax.workdir import archive


def describe(trained: Trained, workdir: str, labels: Sequence[str]) -> dict[str, Any]:
  """Describes a trained network.

  Args:
    trained: the network.
    workdir: the folder of its run, or its .safetensors file.
    labels: the names of its classes in words.

  Returns:
    `recipe`, `architecture` (`alexnet`, `lenet5`, ...), `layers` (their names), `towers`, `width`,
    `input_size` in pixels, `parameters`, `data` (the name of the training data), `training_images` (None if
    unknown), `checkpoint` (its step), `weights`, `views`, `classes` (their names) and `validation` (see
    `validation`).
  """
  config = trained.config
  return {
    'recipe': config.recipe,
    'architecture': config.model.name,
    'layers': list(config.model.layers),
    'towers': config.model.towers,
    'width': float(config.model.width),
    'input_size': config.model.input_size,
    'parameters': sum(leaf.size for leaf in jax.tree.leaves(trained.model.params)),
    'data': sources.short_name(trained.meta['config'].data.source),
    'training_images': trained.meta['num_train'] or None,
    'checkpoint': trained.step,
    'weights': config.eval.weights,
    'views': config.eval.views,
    'classes': list(labels),
    'validation': validation(trained, workdir),
  }


def validation(trained: Trained, workdir: str) -> dict[str, Any] | None:
  """Returns the error of a checkpoint on validation images, or None if it is not known.

  It comes from the file that `--mode=eval` wrote for this checkpoint (evaluation.json in the workdir, or
  FILE.evaluation.json beside FILE.safetensors), or else from the checkpoint, as training measured it.

  Returns:
    `top1_error` in per cent, `images` (their number), `views` of each image, and `data`, the name of the
    images.
  """
  path = pathlib.Path(workdir)
  is_file = archive.is_archive(workdir)
  path = path.with_suffix(f'.{per_class.FILE}') if is_file else path / per_class.FILE
  measured = _read(path)
  if 'top1_error' in measured and _is_of(trained, measured):
    return {
      'top1_error': measured['top1_error'],
      'images': measured['examples'],
      'views': measured['views'],
      'data': sources.short_name(measured['source']),
    }
  in_training, config = trained.meta['validation'], trained.meta['config']
  if 'val/top1_error' not in in_training or config.eval.weights != trained.config.eval.weights:
    return None
  return {
    'top1_error': in_training['val/top1_error'],
    'images': int(in_training['val/examples']),
    'views': config.eval.train_views,
    'data': sources.short_name(config.data.source),
  }


def _is_of(trained: Trained, measured: Mapping[str, Any]) -> bool:
  """Returns whether a file that `--mode=eval` wrote belongs to a network."""
  same = (measured.get('checkpoint'), measured.get('eval_weights', 'last'))
  if same != (trained.step, trained.config.eval.weights):
    return False
  # Files of earlier versions have no fingerprint.
  return 'network' not in measured or measured['network'] == loading.fingerprint(trained)


def _read(path: pathlib.Path) -> Mapping[str, Any]:
  """Returns the JSON object in a file; an empty one if there is none."""
  try:
    content = json.loads(path.read_text())
  except (OSError, ValueError):
    return {}
  return content if isinstance(content, dict) else {}
