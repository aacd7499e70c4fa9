"""The activations of a layer, written to a file: `--mode=features`."""

from collections.abc import Sequence
import contextlib
import functools
import json
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np
from tqdm import tqdm

from alexnet_jax import models
from alexnet_jax.data import Canvas, open_dataset
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import evaluate
from alexnet_jax.inference.files import Reader, find_images
from alexnet_jax.models import alexnet, spec
from alexnet_jax.steps import augment


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
    then = config[layer].get('then', ())
    keys[layer] = alexnet.intermediate_key(layer, 'act') if 'act' in then else layer
    for operation in then:
      key = alexnet.intermediate_key(layer, operation)
      keys.setdefault(f'{operation}{spec.number(layer)}', key)
      keys[key] = key
  return keys


def feature_function(config: FrozenConfigDict, layer: str):
  """`f(variables, mean_image, canvases) -> vectors`, compiled, for one device.

  Args:
    config: of the network.
    layer: one of `layer_keys`. The outputs of the towers are concatenated on channels.

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
  """Writes the vectors of a layer, of the centre view, to an .npz or a .parquet file.

  Args:
    config: `data` names the images where `images` does not; `eval.batch_size` is used.
    workdir: of the run.
    layer: see `feature_function`.
    output: an .npz file with `features`, float32 `[N, ...]`, `layer`, `checkpoint`, `class_names`, and
      `paths`, or of a split `labels` and `index`, int32 `[N]`. A .parquet file has these as columns, each
      row's features as one list; what is one for all, and their shape, is JSON in its schema's metadata.
    images: files, folders and globs; without any, the split `split` of `config.data.source`.
    split: train or validation.
    which: checkpoint: best, latest or a step.

  Returns:
    `{'output', 'layer', 'shape', 'skipped', 'checkpoint'}`.

  Raises:
    UserError: nothing to read, no such layer, split or checkpoint.
  """
  suffix = pathlib.Path(output).suffix
  if suffix not in ('', '.npz', '.parquet') or os.path.isdir(output):
    raise UserError(f'--output={output}: name a file that ends in .npz or .parquet')
  trained = evaluate.load_alone(workdir, which, config)
  function = feature_function(trained.config, layer)
  variables = {'params': trained.model.params, 'batch_stats': trained.model.batch_stats}
  compute = functools.partial(function, variables, trained.model.mean_image)
  if images:
    vectors, columns, skipped = _of_files(compute, find_images(images), trained)
  else:
    data = ConfigDict(config.data.to_dict() | {'canvas': trained.config.data.canvas.to_dict()})
    vectors, columns, skipped = _of_split(compute, data, config.seed, trained, split)
  path = output if suffix else f'{output}.npz'
  pathlib.Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
  names = trained.meta['class_names']
  made: dict[str, Any] = {'layer': layer, 'checkpoint': trained.step}
  if path.endswith('.parquet'):
    _write_parquet(path, vectors, columns, made | {'class_names': names})
  else:
    np.savez(path, features=vectors, class_names=np.asarray(names), **made, **columns)
  return {
    'output': path,
    'layer': layer,
    'shape': list(vectors.shape),
    'skipped': skipped,
    'checkpoint': trained.step,
  }


def _write_parquet(path: str, vectors: np.ndarray, columns: dict, made: dict) -> None:
  """A row an image; see `features`."""
  import pyarrow as pa
  from pyarrow import parquet

  flat = pa.array(vectors.reshape(-1))
  lists = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(vectors.shape[1:])))
  table = pa.table(
    {'features': lists} | {name: pa.array(column) for name, column in columns.items()}
  )
  metadata = {'shape': vectors.shape[1:], **made}
  said = {name: json.dumps(value) for name, value in metadata.items()}
  parquet.write_table(table.replace_schema_metadata(said), path)


def _of_files(compute, paths: list[str], trained: evaluate.Trained):
  """Vectors, columns and skipped images of files."""
  canvas = Canvas.from_config(trained.config.data.canvas)
  reader = Reader(paths, canvas, trained.config.eval.batch_size)
  vectors, read = [], []
  for names, canvases in reader:
    vectors.append(np.asarray(compute(canvases), np.float32)[: len(names)])
    read += names
  if not read:
    raise UserError(f'none of the {len(paths)} images can be read: {reader.skipped[0]["reason"]}')
  return np.concatenate(vectors), {'paths': np.asarray(read)}, reader.skipped


def _of_split(compute, data: ConfigDict, seed: int, trained: evaluate.Trained, split: str):
  """Vectors, columns and skipped images of a split of `data`."""
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
