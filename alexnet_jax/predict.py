"""What a trained network says of images: the likeliest classes, or the vectors of a layer."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
import contextlib
import functools
import glob
import json
import os
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np
from tqdm import tqdm

from alexnet_jax import augment, evaluate, models, parallel
from alexnet_jax.data import Canvas, decode_canvas, imagenet, open_dataset
from alexnet_jax.data.sources import SUFFIXES
from alexnet_jax.errors import UserError
from alexnet_jax.models import alexnet
from alexnet_jax.report import prediction

_TOP = 5


def find_images(places: Sequence[str]) -> list[str]:
  """The image files that `--images` names, each once.

  Args:
    places: files, folders (all images in them and below, sorted by path) and globs.

  Raises:
    UserError: one of them names nothing.
  """
  paths: dict[str, None] = {}
  for place in filter(None, places):
    if os.path.isdir(place):
      found = [
        str(p) for p in sorted(pathlib.Path(place).rglob('*')) if p.name.lower().endswith(SUFFIXES)
      ]
    elif os.path.exists(place):
      found = [place]
    else:
      found = sorted(p for p in glob.glob(place, recursive=True) if os.path.isfile(p))
    if not found:
      what = 'a folder without images' if os.path.isdir(place) else 'there is no such image'
      raise UserError(f'--images={place}: {what}: name files, folders or a glob')
    paths.update(dict.fromkeys(found))
  if not paths:
    raise UserError('--images names nothing: name files, folders or a glob')
  return list(paths)


class Reader:
  """Image files as batches of canvases; notes those that cannot be read.

  Attributes:
    skipped: `{'path', 'reason'}` of each so far.
  """

  def __init__(self, paths: Sequence[str], canvas: Canvas, batch_size: int):
    self._paths, self._canvas, self._batch_size = paths, canvas, batch_size
    self.skipped: list[dict[str, str]] = []

  def _read(self, path: str) -> np.ndarray | str:
    """The canvas of a file, or why there is none."""
    try:
      return decode_canvas(pathlib.Path(path).read_bytes(), self._canvas)
    except (OSError, ValueError) as error:
      return ' '.join(str(error).split())

  def __iter__(self) -> Iterator[tuple[list[str], np.ndarray]]:
    """Paths, n of them, and uint8 `[B, C, C, 3]`, zeros after the first n."""
    size, done = self._canvas.size, 0
    with (
      ThreadPoolExecutor() as pool,
      tqdm(total=len(self._paths), unit='image', disable=None) as bar,
    ):
      while done < len(self._paths):
        chunk = self._paths[done : done + self._batch_size]
        done += len(chunk)
        canvases = np.zeros((self._batch_size, size, size, 3), np.uint8)
        good = []
        for path, canvas in zip(chunk, pool.map(self._read, chunk), strict=True):
          if isinstance(canvas, str):
            self.skipped.append({'path': path, 'reason': canvas})
            tqdm.write(f'skipping {path}: {canvas}', file=sys.stderr)
          else:
            canvases[len(good)] = canvas
            good.append(path)
        if good:
          yield good, canvases
        bar.update(len(chunk))


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
    picture: a file for the first images with their likeliest classes, as `report.prediction` draws them.
      The true class is known of images in folders that are named as the classes are.

  Returns:
    `{'images': [{'path', 'top': [{'label', 'probability'}, ...]}], 'skipped': [{'path', 'reason'}],
    'views', 'checkpoint'}`, and `picture`, the file, where one was asked for: the five likeliest, or all
    where there are fewer.

  Raises:
    UserError: nothing to read, or no such checkpoint.
  """
  if picture:
    prediction.check(picture)
  paths = find_images(images)
  trained = evaluate.load(workdir, which, config)
  evaluate.check_overrides(config, trained.config)
  batch_size = evaluate.batch_size_on(trained.config, trained.mesh.shape[parallel.DATA])
  reader = Reader(paths, Canvas.from_config(trained.config.data.canvas), batch_size)
  model, labels = trained.model, class_labels(trained)
  results: list[dict[str, Any]] = []
  shown: list[np.ndarray] = []
  for names, canvases in reader:
    batch = parallel.shard_batch(trained.mesh, {'image': canvases})
    probabilities = np.asarray(
      model.predict(model.params, model.batch_stats, batch['image'], model.mean_image)
    )
    if picture:
      shown.extend(canvases[: min(len(names), prediction.MOST - len(shown))])
    for path, row in zip(names, probabilities, strict=False):
      results.append({'path': path, 'top': likeliest(row, labels)})
      _show(results[-1])
  if not results:
    raise UserError(f'none of the {len(paths)} images can be read: {reader.skipped[0]["reason"]}')
  if picture:
    words = dict(zip(trained.meta['class_names'], labels, strict=True))
    truths = [words.get(pathlib.Path(r['path']).absolute().parent.name) for r in results]
    tops = [r['top'] for r in results[: len(shown)]]
    prediction.draw(picture, shown, tops, truths[: len(shown)])
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
