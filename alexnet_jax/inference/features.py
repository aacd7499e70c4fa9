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
from alexnet_jax.models import alexnet
from alexnet_jax.steps import augment


def layer_names(config: FrozenConfigDict) -> list[str]:
  """The layers and operations of `config.model` whose outputs `features` can give."""
  names = []
  for layer in config.layers:
    names.append(layer)
    then = config[layer].get('then', ())
    names += [alexnet.sown(config, operation, layer)[0] for operation in then]
  return list(dict.fromkeys(names))


def feature_function(config: FrozenConfigDict, layer: str):
  """`f(variables, mean_image, canvases) -> vectors`, compiled, for one device.

  Args:
    config: of the network.
    layer: one of `layer_names`. A layer's own name means its output after the activation, or where it has
      none, as fc8, its linear output; `conv5` and `pool5` differ by the pooling. Towers are joined
      on channels.

  Raises:
    UserError: there is no such layer.
  """
  known = layer_names(config.model)
  if layer not in known:
    raise UserError(f'--layer={layer}: choose one of {", ".join(known)}')
  name, place = layer, 0
  if layer in config.model.layers and 'act' in config.model[layer].get('then', ()):
    name, place = alexnet.sown(config.model, 'act', layer)
  module = models.create(config.model)
  view = jnp.asarray(augment.VIEWS[1][0], jnp.float32)

  @jax.jit
  def features(variables, mean_image, canvases):
    images = augment.test_images(canvases, view, mean_image, config)
    _, state = module.apply(
      variables, images, train=False, capture_intermediates=True, mutable=['intermediates']
    )
    out = state['intermediates'][name]
    out = (out['__call__'] if isinstance(out, dict) else out)[place]
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
