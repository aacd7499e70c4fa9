"""`--mode=features`: writes the activations of a layer to a file."""

from collections.abc import Sequence
import contextlib
import os
import pathlib

from ml_collections import ConfigDict
import numpy as np
from tqdm import tqdm

from alexnet_jax.data import Canvas, open_dataset
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import loading
from alexnet_jax.inference.classifier import feature_function
from alexnet_jax.inference.files import Reader, find_images
from alexnet_jax.utils import atomic_io, output_path


def features(
  config: ConfigDict,
  workdir: str,
  layer: str,
  output: str,
  images: Sequence[str] = (),
  split: str = 'validation',
  which: str = 'best',
) -> dict[str, object]:
  """Writes the activations of a layer, for the centre view of each image, to an .npz file.

  The file holds `features`, float32 `[N, ...]`, `layer`, `checkpoint` and `class_names`; for image
  files also their absolute `paths`, str `[N]`; for a split also `labels` and `index`, int32 `[N]`, and
  the class names are those of its labels.

  Args:
    config: `data` names the images if `images` is empty; `eval.batch_size` is the batch size.
    workdir: folder of the run, or a .safetensors file.
    layer: a layer, as for `feature_function`.
    output: path of the file; the ending .npz may be left out.
    images: files, folders and globs. If empty, the images are the split `split` of
      `config.data.source`.
    split: train or validation.
    which: the checkpoint: best, latest or a step.

  Returns:
    `{'output', 'layer', 'shape', 'skipped', 'checkpoint'}`.

  Raises:
    UserError: there are no readable images, or no such layer, split or checkpoint.
  """
  path = output_path.check(output if pathlib.Path(output).suffix else f'{output}.npz', ('.npz',))
  trained = loading.load_alone(workdir, which, config)
  compute = feature_function(trained, layer)
  if images:
    vectors, columns, skipped = _of_files(compute, find_images(images), trained)
  else:
    data = ConfigDict(config.data.to_dict() | {'canvas': trained.config.data.canvas.to_dict()})
    vectors, columns, skipped = _of_split(compute, data, config.seed, trained, split)
  with atomic_io.replacing(path) as file:
    np.savez(
      file,
      features=vectors,
      layer=layer,
      checkpoint=trained.step,
      network=loading.fingerprint(trained),
      **({'class_names': np.asarray(trained.meta['class_names'])} | columns),
    )
  return {
    'output': str(path),
    'layer': layer,
    'shape': list(vectors.shape),
    'skipped': skipped,
    'checkpoint': trained.step,
  }


def _of_files(compute, paths: list[str], trained: loading.Trained):
  """Returns the features, columns and skipped images of image files."""
  canvas = Canvas.from_config(trained.config.data.canvas)
  reader = Reader(paths, canvas, loading.batch_size_on(trained.config, 1, len(paths)))
  vectors, read = [], []
  for names, canvases in reader:
    vectors.append(compute(canvases)[: len(names)])
    read += names
  if not read:
    raise UserError(f'none of the {len(paths)} images can be read: {reader.skipped[0]["reason"]}')
  # A program that reads the file may run in another folder.
  paths = list(map(os.path.abspath, read))
  return np.concatenate(vectors), {'paths': np.asarray(paths)}, reader.skipped


def _of_split(compute, data: ConfigDict, seed: int, trained: loading.Trained, split: str):
  """Returns the features, columns and skipped images of a split of `data`."""
  vectors, labels, index = [], [], []
  with contextlib.closing(open_dataset(data, seed)) as dataset:
    total = {'train': dataset.num_train, 'validation': dataset.num_validation}.get(split, 0)
    batches = dataset.eval_batches(trained.config.eval.batch_size, split=split)
    with tqdm(total=total, unit='image', disable=None) as bar:
      for batch in batches:
        mask = batch['mask']
        vectors.append(compute(batch['image'])[mask])
        labels.append(batch['label'][mask])
        index.append(batch['index'][mask])
        bar.update(int(mask.sum()))
    skipped = [{'path': name, 'reason': reason} for _, name, reason in dataset.skipped]
    class_names = np.asarray(dataset.class_names)  # those of the labels, not of the network
  columns = {
    'labels': np.concatenate(labels),
    'index': np.concatenate(index),
    'class_names': class_names,
  }
  return np.concatenate(vectors), columns, skipped
