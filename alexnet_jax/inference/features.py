"""`--mode=features`: writes the activations of a layer to a file."""

from collections.abc import Sequence
import contextlib
import functools
import pathlib

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np
from tqdm import tqdm

from alexnet_jax import models
from alexnet_jax.data import Canvas, open_dataset
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import loading
from alexnet_jax.inference.files import Reader, find_images
from alexnet_jax.models import alexnet, spec
from alexnet_jax.steps import augment
from alexnet_jax.utils import output_path


def layer_keys(config: FrozenConfigDict) -> dict[str, str]:
  """Returns the names of outputs that `features` can write, with their keys among the 'intermediates'.

  Args:
    config: `config.model`.

  Returns:
    For each layer its own name (`conv5`: the output after the activation, or the linear output of a layer
    without one), and for each operation that follows it its key (`conv5/pool`) and a short name (`pool5`).
    Where two layers share a short name, as conv6 and fc6 share `act6`, it means the earlier layer.
  """
  keys: dict[str, str] = {}
  for layer in config.layers:
    then = spec.operations(config, layer)
    keys[layer] = alexnet.intermediate_key(layer, 'act') if 'act' in then else layer
    for operation in then:
      key = alexnet.intermediate_key(layer, operation)
      keys.setdefault(f'{operation}{spec.number(layer)}', key)
      keys[key] = key
  return keys


def feature_function(config: FrozenConfigDict, layer: str):
  """Compiles the function that computes the output of a layer, on one device.

  Args:
    config: the config of the network.
    layer: one of `layer_keys`.

  Returns:
    `f(variables, mean_image, canvases) -> features`, with canvases uint8 `[B, C, C, 3]` and features
    `[B, ...]`. The towers are concatenated along the channels.

  Raises:
    UserError: there is no such layer.
  """
  keys = layer_keys(config.model)
  if layer not in keys:
    known = ', '.join(name for name in keys if '/' not in name)
    raise UserError(f'--layer={layer}: choose one of {known}')
  module = models.create(config.model)
  view = jnp.asarray(augment.VIEWS[1][0], jnp.float32)

  @jax.jit
  def features(variables, mean_image, canvases):
    images = augment.eval_images(canvases, view, mean_image, config)
    _, state = module.apply(
      variables, images, train=False, capture_intermediates=True, mutable=['intermediates']
    )
    out = state['intermediates'][keys[layer]]
    out = (out['__call__'] if isinstance(out, dict) else out)[0]
    return jnp.concatenate(out, -1) if isinstance(out, list | tuple) else out

  return features


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
  files also `paths`, str `[N]`; for a split also `labels` and `index`, int32 `[N]`.

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
  function = feature_function(trained.config, layer)
  variables = {'params': trained.model.params, 'batch_stats': trained.model.batch_stats}
  compute = functools.partial(function, variables, trained.model.mean_image)
  if images:
    vectors, columns, skipped = _of_files(compute, find_images(images), trained)
  else:
    data = ConfigDict(config.data.to_dict() | {'canvas': trained.config.data.canvas.to_dict()})
    vectors, columns, skipped = _of_split(compute, data, config.seed, trained, split)
  np.savez(
    path,
    features=vectors,
    layer=layer,
    checkpoint=trained.step,
    network=loading.fingerprint(trained),
    class_names=np.asarray(trained.meta['class_names']),
    **columns,
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
    vectors.append(np.asarray(compute(canvases), np.float32)[: len(names)])
    read += names
  if not read:
    raise UserError(f'none of the {len(paths)} images can be read: {reader.skipped[0]["reason"]}')
  return np.concatenate(vectors), {'paths': np.asarray(read)}, reader.skipped


def _of_split(compute, data: ConfigDict, seed: int, trained: loading.Trained, split: str):
  """Returns the features, columns and skipped images of a split of `data`."""
  vectors, labels, index = [], [], []
  with contextlib.closing(open_dataset(data, seed)) as dataset:
    total = {'train': dataset.num_train, 'validation': dataset.num_validation}.get(split, 0)
    batches = dataset.eval_batches(trained.config.eval.batch_size, split=split)
    with tqdm(total=total, unit='image', disable=None) as bar:
      for batch in batches:
        mask = batch['mask']
        vectors.append(np.asarray(compute(batch['image']), np.float32)[mask])
        labels.append(batch['label'][mask])
        index.append(batch['index'][mask])
        bar.update(int(mask.sum()))
    skipped = [{'path': name, 'reason': reason} for _, name, reason in dataset.skipped]
  columns = {'labels': np.concatenate(labels), 'index': np.concatenate(index)}
  return np.concatenate(vectors), columns, skipped
