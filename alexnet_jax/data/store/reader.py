"""Reads a store: the canvases that `--mode=prepare` wrote.

A store is a folder with these files:

- `images-SPLIT.array_record-KKKKK-of-NNNNN`, `dataset_info.json`, `features.json`: a TFDS data set
  of `image` (JPEG, or uint8 [S, S, 3] as bytes), `label` and `file_name`. TFDS opens it with
  `tfds.builder_from_directory(PATH).as_data_source(SPLIT)`.
- `store.json`: format, canvas, class names, counts, source and settings. It is written last, so a
  store without it is not finished.
- `store.npz`: the offset of each image in its file (see `records`), labels, mean image, covariance.
- `report.json`: every file that was skipped or repaired, with the reason.

Reading needs NumPy, and for JPEG also simplejpeg. It needs neither TensorFlow nor the array_record
package.
"""

import functools
import json
import os
from typing import Any, NamedTuple

from absl import logging
import numpy as np

from alexnet_jax.data.decode import Canvas, decode_stored
from alexnet_jax.data.splits import Source, Split
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.data.store import records
from alexnet_jax.errors import UserError

VERSION = 1
META, ARRAYS, REPORT, PARTS = 'store.json', 'store.npz', 'report.json', 'parts'
FORMATS = ('jpeg', 'raw')
SPLITS = ('train', 'validation')
_AGAIN = 'copy it again, or remove the store and prepare it again'


class Index(NamedTuple):
  """The index of a split.

  Attributes:
    label: class of each image, int32 [N].
    offset: offset of each image in the stream of its file (see `records`), int64 [N].
    size: size of each image in bytes, int32 [N].
    row: index of each image in the split of the source, int32 [N].
  """

  label: np.ndarray
  offset: np.ndarray
  size: np.ndarray
  row: np.ndarray


def file_name(split: str, shard: int, shards: int) -> str:
  """Returns the name that TFDS gives to a file of a data set named `images`."""
  return f'images-{split}.array_record-{shard:05}-of-{shards:05}'


def open_store(path: str, canvas: Canvas) -> Source:
  """Opens `store:PATH`.

  Args:
    path: the folder.
    canvas: the canvas that `config.data.canvas` asks for; it must equal the canvas of the store.

  Raises:
    UserError: the store is missing, unfinished or damaged, or its canvases are different.
  """
  need = f'config.data.source=store:{path}'
  meta = read_meta(path)
  if meta is None:
    unfinished = os.path.isdir(os.path.join(path, PARTS))
    raise UserError(
      f'{need}: the store is not finished; run the command that writes it again'
      if unfinished
      else f'{need}: there is no store; write one with --mode=prepare --output={path}'
    )
  if meta['version'] != VERSION:
    raise UserError(f'{need}: the store has version {meta["version"]}; this code reads {VERSION}')
  stored, asked = meta['canvas'], canvas._asdict()
  different = [key for key in ('size', 'fit', 'filter') if stored[key] != asked[key]]
  if different:
    key = different[0]
    raise UserError(
      f'{need} holds canvases of {key} {stored[key]!r}, not {asked[key]!r}: set'
      f' --config.data.canvas.{key}={stored[key]}, or prepare another store'
    )
  turned = stored.get('exif_orientation', False)
  if turned != canvas.exif_orientation:
    logging.warning(
      '%s was prepared with config.data.canvas.exif_orientation=%s; the value %s of this run has no '
      'effect on its images',
      need,
      turned,
      canvas.exif_orientation,
    )
  try:
    with np.load(os.path.join(path, ARRAYS)) as file:
      arrays = dict(file)
  except Exception as error:  # numpy and zipfile raise many types on damaged files
    raise UserError(f'{need}: {ARRAYS} is damaged ({error}): {_AGAIN}') from error
  splits = {name: _open_split(path, name, meta, arrays) for name in meta['splits']}
  statistics = Statistics(*(arrays[field] for field in Statistics._fields))
  titles = meta.get('class_titles')
  return Source(
    splits['train'],
    splits.get('validation'),
    tuple(meta['class_names']),
    statistics,
    tuple(titles) if titles else None,
  )


def read_meta(path: str) -> dict[str, Any] | None:
  """Returns the metadata of a finished store; None if there is no finished store.

  Raises:
    UserError: the metadata cannot be read.
  """
  try:
    with open(os.path.join(path, META), encoding='utf-8') as file:
      return json.load(file)
  except (FileNotFoundError, NotADirectoryError):
    return None
  except (OSError, ValueError) as error:
    raise UserError(f'{path}/{META} cannot be read ({error}): {_AGAIN}') from error


def _open_split(path: str, split: str, meta: dict, arrays: dict[str, np.ndarray]) -> Split:
  """Opens one split, after checking that its files exist and are complete."""
  shards = meta['splits'][split]['shards']
  index = Index(*(arrays[f'{split}/{field}'] for field in Index._fields))
  for shard in shards:
    if os.path.basename(shard['file']) != shard['file']:
      raise UserError(
        f'config.data.source=store:{path}: {META} names {shard["file"]!r}, which is not in the store'
      )
    file = os.path.join(path, shard['file'])
    size = os.path.getsize(file) if os.path.exists(file) else 0
    if size != shard['bytes']:
      raise UserError(
        f'config.data.source=store:{path}: {shard["file"]} has {size} of {shard["bytes"]} bytes:'
        f' {_AGAIN}'
      )
  starts = np.cumsum([0] + [shard['images'] for shard in shards])

  @functools.cache
  def file_bytes(shard: int) -> np.ndarray:
    return np.memmap(os.path.join(path, shards[shard]['file']), np.uint8, 'r')

  def read_into(i: int, out: np.ndarray) -> np.ndarray:
    shard = int(np.searchsorted(starts, i, 'right')) - 1
    records.read(file_bytes(shard), int(index.offset[i]), out)
    return out

  size = meta['canvas']['size']

  def fill_raw(i: int, out: np.ndarray) -> None:
    read_into(i, out.reshape(-1, copy=False))

  def fill_jpeg(i: int, out: np.ndarray) -> None:
    decode_stored(read_into(i, np.empty(index.size[i], np.uint8)), out)

  def read(i: int) -> bytes | np.ndarray:
    data = read_into(i, np.empty(index.size[i], np.uint8))
    return data.reshape(size, size, 3) if meta['format'] == 'raw' else data.tobytes()

  form = meta['format']
  fill = fill_raw if form == 'raw' else fill_jpeg
  return Split(index.label, read, lambda i: f'{path}/{split}[{i}]', fill, form)
