"""Writes a store: the canvases of any source (`reader` documents the files of a store).

The images are divided into shards. Each shard is written under a temporary name, read back and
renamed; then its index is written to `parts/` in the same way. A shard with an index is finished.
After an interruption, the same command writes only the other shards, and the bytes of the store do
not depend on interruptions. The process that finds all shards finished writes the metadata, with
`store.json` last.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
import json
import os
import pathlib
import re
import shutil
from typing import Any, NamedTuple

from absl import logging
from ml_collections import ConfigDict
import numpy as np
from tqdm import tqdm

from alexnet_jax.data import statistics as stats
from alexnet_jax.data.decode import Canvas, decode_canvas, decode_stored, encode_jpeg
from alexnet_jax.data.splits import Source, Split, check_reach, cores
from alexnet_jax.data.store import reader, records, tfds_metadata
from alexnet_jax.data.store.finish import class_titles, finish_store
from alexnet_jax.data.store.job import Job
from alexnet_jax.errors import UserError
from alexnet_jax.utils import atomic_io
from alexnet_jax.utils.prefetch import map_ahead

_CHUNK = 16  # images per task of a thread


def write_store(
  source: Source,
  config_data: ConfigDict,
  settings: ConfigDict,
  output: str,
  shard: str = '',
) -> dict[str, object]:
  """Writes, or continues writing, the store `output` of the images of `source`.

  Args:
    source: the opened source.
    config_data: `config.data`. Its keys `source`, `canvas`, `split_seed`, `devkit`, `threads`,
      `max_bad_share` and `drop_bad_validation` are used.
    settings: `config.prepare`.
    output: folder of the store.
    shard: as for `prepare`.

  Returns:
    The dict that `prepare` returns.

  Raises:
    UserError: a setting is invalid, or `output` belongs to another store.
    RunError: the disk is full or out of reach, or too few images can be decoded.
  """
  part, parts = part_of(shard)
  job = Job(source, config_data, settings, Canvas.from_config(config_data.canvas), output)
  meta = reader.read_meta(output)
  if meta is not None:
    job.check_plan(meta['plan'])
    # A process that was killed at the very end may have left the folder of parts.
    shutil.rmtree(os.path.join(output, reader.PARTS), ignore_errors=True)
    reader.open_store(output, job.canvas)  # a damaged store is an error
    logging.info(
      'nothing to do: %s is complete; to include files that were repaired, remove it first', output
    )
    return _summary(output, meta, 0)
  if settings.shuffle and source.train.sequential:
    logging.warning('the images keep the order of their files, which have no random access')
  titles = class_titles(job)
  job.claim_folder()
  features, serialize = tfds_metadata.make_features(
    settings.format, job.canvas.size, source.class_names
  )
  try:
    _write_shards(job, serialize, [s for k, s in enumerate(job.all_shards) if k % parts == part])
  except FileNotFoundError:
    if reader.read_meta(output) is None:
      raise
  left = sum(not job.is_finished(*s) for s in job.all_shards)
  if meta := reader.read_meta(output):  # another process has finished it and removed the parts
    return _summary(output, meta, 0)
  if left:
    logging.info('%d of %d shards are left for the other parts', left, len(job.all_shards))
    return _summary(output, None, left)
  return _summary(output, finish_store(job, features, titles), 0)


def part_of(shard: str) -> tuple[int, int]:
  """Parses `i/n` as (i % n, n); '' is the only part of one.

  Raises:
    UserError: `shard` has another form.
  """
  if not shard:
    return 0, 1
  match = re.fullmatch(r'(\d+)/(\d+)', shard)
  if not match or not 0 <= int(match[1]) <= int(match[2]) or match[2] == '0':
    raise UserError(f'--shard={shard}: write i/n, as in 1/8 ... 8/8, or nothing for all')
  return int(match[1]) % int(match[2]), int(match[2])


def _summary(output: str, meta: dict[str, Any] | None, left: int) -> dict[str, object]:
  counts = ('format', 'images', 'skipped', 'repaired', 'bytes')
  return {
    'store': output,
    **{key: meta[key] if meta else None for key in counts},
    'shards_left': left,
    'report': os.path.join(output, reader.REPORT) if meta else None,
  }


def _write_shards(job: Job, serialize: Callable, shards: list[tuple[str, int]]) -> None:
  """Writes those of `shards` that are not finished."""
  sizes = {shard: len(job.rows(*shard)) for shard in shards}
  todo = [shard for shard in shards if not job.is_finished(*shard)]
  total = sum(sizes.values())
  done = total - sum(sizes[shard] for shard in todo)
  threads = job.config_data.threads or cores()
  with (
    ThreadPoolExecutor(threads) as pool,
    tqdm(total=total, initial=done, desc='prepare', unit='image', mininterval=1) as bar,
  ):
    for split, shard in todo:

      def encode(rows: np.ndarray, split: str = split) -> _Chunk:
        return _encode_images(job, serialize, split, rows)

      rows = job.rows(split, shard)
      chunks = np.array_split(rows, -(-len(rows) // _CHUNK))
      _write_shard(job, split, shard, map_ahead(pool, encode, chunks, 2 * threads), bar)


class _Chunk(NamedTuple):
  """Some images of a split, encoded.

  Attributes:
    images: number of images, including those that were skipped.
    rows: index in the split of each image that could be decoded.
    records: (serialised record, payload in it) of each of these images.
    report: (kind, split, name, reason) of each skipped or repaired image.
    sums: sums over the canvases, zero unless the split is `train`.
  """

  images: int
  rows: list[int]
  records: list[tuple[bytes, bytes]]
  report: list[tuple[str, str, str, str]]
  sums: stats.Sums


def _write_shard(job: Job, split: str, shard: int, chunks: Iterator[_Chunk], bar: tqdm) -> None:
  """Writes one shard and then its index."""
  path, index_path = job.paths(split, shard)
  images: Split = getattr(job.source, split)
  rows: list[int] = []
  report: list[tuple[str, str, str, str]] = []
  sums = stats.add([], job.canvas.size)

  def all_records() -> Iterator[tuple[bytes, bytes]]:
    for chunk in chunks:
      rows.extend(chunk.rows)
      report.extend(chunk.report)
      for total, part in zip(sums, chunk.sums, strict=True):
        np.add(total, part, out=total)
      for kind, _, name, reason in chunk.report:
        logging.warning('%s %s: %s', kind, name, reason)
      yield from chunk.records
      bar.update(chunk.images)

  offsets, sizes = records.write(path, all_records())
  index = reader.Index(
    images.labels[rows].astype(np.int32), offsets, sizes, np.asarray(rows, np.int32)
  )
  arrays = index._asdict() | sums._asdict() | {'report': np.asarray(json.dumps(report))}
  arrays['total'] = arrays['total'].astype(np.uint32)
  with atomic_io.replacing(index_path) as file:
    np.savez(file, **arrays)


def _encode_images(job: Job, serialize: Callable, split: str, rows: np.ndarray) -> _Chunk:
  """Decodes some images of a split and encodes their canvases."""
  images: Split = getattr(job.source, split)
  size, settings = job.canvas.size, job.settings
  form, _, path = job.config_data.source.partition(':')
  root = pathlib.Path(path).expanduser() if form == 'folder' else None
  good, encoded, report, canvases = [], [], [], []
  for row in map(int, rows):
    name, notes = images.name(row), []
    try:
      data = images.read(row)
      canvas = decode_canvas(data, job.canvas, notes)
    except (ValueError, OSError) as error:
      check_reach(name, error)
      report.append(('skipped', split, name, str(error)))
      continue
    if isinstance(data, bytes) and data[:2] != b'\xff\xd8' and re.search(r'(?i)\.jpe?g$', name):
      notes.append('the file is not a JPEG, although its name says so')
    if notes:
      report.append(('repaired', split, name, '; '.join(notes)))
    label, file_name = int(images.labels[row]), os.path.relpath(name, root) if root else name
    if settings.format == 'jpeg':
      payload = encode_jpeg(canvas, settings.quality, settings.subsampling)
      record = serialize(payload, label, file_name)
      canvas = np.empty((size, size, 3), np.uint8)
      decode_stored(payload, canvas)  # the statistics are those of the canvases as stored
    else:
      payload = canvas.tobytes()
      record = serialize(canvas, label, file_name)
    good.append(row)
    encoded.append((record, payload))
    canvases.append(canvas)
  sums = stats.add(canvases if split == 'train' else [], size)
  return _Chunk(len(rows), good, encoded, report, sums)
