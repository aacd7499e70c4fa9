"""Writes a store: the canvases of any source (see `reader` for the files of a store).

The images are cut into shards; each is written under a temporary name, read back and renamed, and
then its index is written to `parts/` the same way. A shard with an index is finished: whatever stops the
work, the same command redoes the others only, and gives the same bytes. When all shards of all
parts are finished, whoever finds it so writes the metadata, `store.json` last.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
import dataclasses
import glob
import json
import os
import pathlib
import re
import shutil
from typing import Any

from absl import logging
from ml_collections import ConfigDict
import numpy as np
from tqdm import tqdm

from alexnet_jax.data import imagenet
from alexnet_jax.data import statistics as stats
from alexnet_jax.data.decode import Canvas, decode_canvas, decode_stored, encode_jpeg
from alexnet_jax.data.prefetch import map_ahead
from alexnet_jax.data.splits import Source, Split, cores, generator
from alexnet_jax.data.store import reader, records, tfds_metadata
from alexnet_jax.errors import UserError

_CHUNK = 16  # images a thread makes at a time
_PLAN = 'plan.json'


@dataclasses.dataclass(frozen=True)
class StoreSettings:
  """How the canvases of a store are written: `config.prepare`.

  Attributes:
    format: jpeg, or raw (uint8, six times the size, nothing to decode).
    quality: JPEG quality, 1 to 100.
    subsampling: chroma subsampling of the JPEG canvases: 444, 422 or 420.
    shard_images: images in each file. A restart repeats at most one file's images.
    shuffle: whether the training images are shuffled once, before they are written.
  """

  format: str = 'jpeg'
  quality: int = 95
  subsampling: str = '420'
  shard_images: int = 4096
  shuffle: bool = True


def write_store(
  source: Source,
  config_data: ConfigDict,
  settings: StoreSettings,
  output: str,
  shard: str = '',
) -> dict[str, object]:
  """Writes, or goes on writing, the store `output` of the images of `source`.

  Args:
    source: the opened source.
    config_data: `config.data`. Its keys `source`, `canvas`, `split_seed`, `devkit` and `threads` are
      used.
    settings: how canvases are written.
    output: folder of the store.
    shard: as `prepare` takes it.

  Returns:
    What `prepare` returns.

  Raises:
    UserError: a setting is invalid, or `output` holds, or will hold, another store.
    RunError: the disk is full, or no training image could be decoded.
  """
  part, parts = part_of(shard)
  canvas = Canvas.from_config(config_data.canvas)
  meta = reader.read_meta(output)
  plan = _plan(config_data, settings, canvas, source)
  if meta is not None:
    _compare(meta['plan'], plan, output)
    # A process that was killed at the very end may have left the folder of parts.
    shutil.rmtree(os.path.join(output, reader.PARTS), ignore_errors=True)
    logging.info('nothing to do: %s is complete', output)
    return _summary(output, meta, 0)
  _claim(output, plan)
  job = _Job(config_data, settings, canvas, source, output, plan)
  mine = [piece for k, piece in enumerate(job.pieces) if k % parts == part]
  job.work(mine)
  left = sum(not job.finished(*piece) for piece in job.pieces)
  if left:
    logging.info('%d of %d shards are left for the other parts', left, len(job.pieces))
    return _summary(output, None, left)
  return _summary(output, job.finish(), 0)


def part_of(shard: str) -> tuple[int, int]:
  """`i/n` as (i % n, n); '' is all of one part."""
  if not shard:
    return 0, 1
  match = re.fullmatch(r'(\d+)/(\d+)', shard)
  if not match or not 0 <= int(match[1]) <= int(match[2]) or match[2] == '0':
    raise UserError(f'--shard={shard}: write i/n, as in 1/8 ... 8/8, or nothing for all')
  return int(match[1]) % int(match[2]), int(match[2])


def _plan(
  config_data: ConfigDict, settings: StoreSettings, canvas: Canvas, source: Source
) -> dict[str, Any]:
  """All that the bytes of the store hang on, as JSON has it."""
  splits = {name: split for name in reader.SPLITS if (split := getattr(source, name)) is not None}
  plan = {
    'version': reader.VERSION,
    'source': config_data.source,
    'canvas': canvas._asdict(),
    **dataclasses.asdict(settings),
    'split_seed': config_data.split_seed,
    'images': {name: len(split) for name, split in splits.items()},
    'fingerprints': {
      name: stats.fingerprint(config_data.source, canvas, split) for name, split in splits.items()
    },
    'class_names': list(source.class_names),
  }
  return json.loads(json.dumps(plan))


def _compare(there: dict[str, Any], here: dict[str, Any], output: str) -> None:
  """Raises UserError where two plans differ."""
  different = [key for key in here if there.get(key) != here[key]]
  if different:
    key = different[0]
    values = f' ({there.get(key)!r} there, {here[key]!r} here)' if key != 'class_names' else ''
    raise UserError(
      f'--output={output} holds another store: its {key} is another{values}; name another folder,'
      ' or remove that one'
    )


def _claim(output: str, plan: dict[str, Any]) -> None:
  """Makes `output` the place of this plan, or checks that it is."""
  path = os.path.join(output, reader.PARTS, _PLAN)
  try:
    if os.path.isdir(output) and os.listdir(output) and not os.path.isdir(os.path.dirname(path)):
      raise UserError(f'--output={output} holds other files: name a new folder')
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.exists(path):
      with open(path, encoding='utf-8') as file:
        _compare(json.load(file), plan, output)
    else:
      _write_json(path, plan)
  except (PermissionError, NotADirectoryError, FileExistsError) as error:
    raise UserError(
      f'--output={output} cannot be written ({error.strerror}): name another folder'
    ) from error


def _write_json(path: str, value: Any) -> None:
  _replace(path, lambda file: file.write(json.dumps(value, indent=1).encode()))


def _replace(path: str, write: Any) -> None:
  """Writes a file under a temporary name, brings it to the disk, and renames it."""
  temporary = f'{path}.{os.getpid()}'
  with open(temporary, 'wb') as file:
    write(file)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)


def _summary(output: str, meta: dict[str, Any] | None, left: int) -> dict[str, object]:
  counts = ('format', 'images', 'skipped', 'repaired', 'bytes')
  return {
    'store': output,
    **{key: meta[key] if meta else None for key in counts},
    'shards_left': left,
    'report': os.path.join(output, reader.REPORT) if meta else None,
  }


class _Job:
  """The writing of one store.

  Attributes:
    pieces: (split, number of the shard), all of them.
  """

  def __init__(
    self,
    config_data: ConfigDict,
    settings: StoreSettings,
    canvas: Canvas,
    source: Source,
    output: str,
    plan: dict,
  ):
    self.config_data, self.settings = config_data, settings
    self.canvas, self.source, self.output = canvas, source, output
    self.plan = plan
    form, _, place = config_data.source.partition(':')
    self.root = pathlib.Path(place).expanduser() if form == 'folder' else None
    root = self.root or pathlib.Path(place)
    self.titles = imagenet.titles(source.class_names, root, config_data.devkit)
    self.features, self.serialize = tfds_metadata.make_features(
      settings.format, canvas.size, source.class_names
    )
    self.shards = {
      split: -(-number // settings.shard_images) for split, number in plan['images'].items()
    }
    self.pieces = [(split, k) for split, number in self.shards.items() for k in range(number)]

  def rows(self, split: str, shard: int) -> np.ndarray:
    """The images of a shard, by their numbers in the source, int64 [n].

    Training images are shuffled once and for all, as the original's were before they were written
    (FACTS §3), so that the stored order is one to train in.
    """
    number = self.plan['images'][split]
    order = np.arange(number)
    if split == 'train' and self.settings.shuffle and not self.source.train.sequential:
      order = generator(self.config_data.split_seed, 0, purpose=3).permutation(number)
    return np.array_split(order, self.shards[split])[shard]

  def paths(self, split: str, shard: int) -> tuple[str, str]:
    """The file of a shard, and that of its index."""
    name = reader.file_name(split, shard, self.shards[split])
    index = os.path.join(self.output, reader.PARTS, f'{split}-{shard:05}.npz')
    return os.path.join(self.output, name), index

  def finished(self, split: str, shard: int) -> bool:
    """Whether a shard needs no more work."""
    return all(map(os.path.exists, self.paths(split, shard)))

  def work(self, pieces: list[tuple[str, int]]) -> None:
    """Writes those shards of `pieces` that are not finished."""
    sizes = {piece: len(self.rows(*piece)) for piece in pieces}
    todo = [piece for piece in pieces if not self.finished(*piece)]
    done = sum(sizes.values()) - sum(sizes[piece] for piece in todo)
    threads = self.config_data.threads or cores()
    with (
      ThreadPoolExecutor(threads) as pool,
      tqdm(
        total=sum(sizes.values()), initial=done, desc='prepare', unit='image', mininterval=1
      ) as bar,
    ):
      for piece in todo:
        self.write(piece, pool, threads, bar)

  def write(
    self, piece: tuple[str, int], pool: ThreadPoolExecutor, threads: int, bar: tqdm
  ) -> None:
    """Writes one shard and then its index."""
    split, shard = piece
    rows, (path, index_path) = self.rows(split, shard), self.paths(split, shard)
    images: Split = getattr(self.source, split)
    good: list[int] = []
    report: list[tuple[str, str, str, str]] = []
    sums = stats.add([], self.canvas.size)

    def written() -> Iterator[tuple[bytes, bytes]]:
      chunks = np.array_split(rows, -(-len(rows) // _CHUNK))
      made = map_ahead(pool, lambda chunk: self.make(split, images, chunk), chunks, 2 * threads)
      for chunk, done, told, more in made:
        good.extend(row for row, _, _ in done)
        report.extend(told)
        for total, part in zip(sums, more, strict=True):
          np.add(total, part, out=total)
        for kind, _, name, why in told:
          logging.warning('%s %s: %s', kind, name, why)
        yield from (pair for _, *pair in done)
        bar.update(len(chunk))

    offsets, sizes = records.write(path, written())
    labels = images.labels[good].astype(np.int32)
    index = reader.Index(labels, offsets, sizes, np.asarray(good, np.int32))
    arrays = index._asdict() | sums._asdict() | {'report': np.asarray(json.dumps(report))}
    arrays['total'] = arrays['total'].astype(np.uint32)
    _replace(index_path, lambda file: np.savez(file, **arrays))

  def make(self, split: str, images: Split, rows: np.ndarray) -> tuple[Any, list, list, stats.Sums]:
    """Some images as (rows, [(row, record, payload), ...], lines of the report, their sums)."""
    size, choices = self.canvas.size, self.settings
    done, report, kept = [], [], []
    for row in map(int, rows):
      name, notes = images.name(row), []
      try:
        data = images.read(row)
        canvas = decode_canvas(data, self.canvas, notes)
      except (ValueError, OSError) as error:
        report.append(('skipped', split, name, str(error)))
        continue
      if isinstance(data, bytes) and data[:2] != b'\xff\xd8' and re.search(r'(?i)\.jpe?g$', name):
        notes.append('it is not the JPEG that its name says')
      if notes:
        report.append(('repaired', split, name, '; '.join(notes)))
      stored, payload = canvas, canvas.tobytes()
      if choices.format == 'jpeg':
        payload = encode_jpeg(canvas, choices.quality, choices.subsampling)
        stored = np.empty((size, size, 3), np.uint8)
        decode_stored(payload, stored)  # the statistics are those of what will be read
      kept.append(stored)
      short = os.path.relpath(name, self.root) if self.root else name
      record = self.serialize(
        payload if choices.format == 'jpeg' else canvas, int(images.labels[row]), short
      )
      done.append((row, record, payload))
    return rows, done, report, stats.add(kept if split == 'train' else [], size)

  def finish(self) -> dict[str, Any]:
    """Writes the metadata of a store whose shards are all finished, and returns it."""
    try:
      meta = self._metadata()
    except FileNotFoundError:
      of_another = reader.read_meta(self.output)  # another part was quicker
      if of_another is None:
        raise
      meta = of_another
    shutil.rmtree(os.path.join(self.output, reader.PARTS), ignore_errors=True)
    return meta

  def _metadata(self) -> dict[str, Any]:
    arrays, splits, lines = {}, {}, []
    sums = stats.add([], self.canvas.size)
    for split, number in self.shards.items():
      parts = [dict(np.load(self.paths(split, k)[1])) for k in range(number)]
      for field in reader.Index._fields:
        arrays[f'{split}/{field}'] = np.concatenate([part[field] for part in parts])
      files = [reader.file_name(split, k, number) for k in range(number)]
      splits[split] = {
        'shards': [
          {
            'file': file,
            'bytes': os.path.getsize(os.path.join(self.output, file)),
            'images': len(part['label']),
          }
          for file, part in zip(files, parts, strict=True)
        ],
        'class_counts': np.bincount(
          arrays[f'{split}/label'], minlength=len(self.source.class_names)
        ).tolist(),
      }
      for part in parts:
        lines += json.loads(str(part['report']))
        for total, field in zip(sums, stats.Sums._fields, strict=True):
          np.add(total, part[field], out=total)
    statistics = stats.from_sums(sums)
    covariance = stats.covariance(sums)
    report = {
      kind: [
        {'split': split, 'file': name, 'reason': why}
        for told, split, name, why in lines
        if told == kind
      ]
      for kind in ('skipped', 'repaired')
    }
    meta = {
      'version': reader.VERSION,
      'format': self.settings.format,
      'canvas': self.canvas._asdict(),
      'class_names': list(self.source.class_names),
      'class_titles': self.titles,
      'images': {name: sum(s['images'] for s in split['shards']) for name, split in splits.items()},
      'skipped': len(report['skipped']),
      'repaired': len(report['repaired']),
      'bytes': sum(shard['bytes'] for split in splits.values() for shard in split['shards']),
      'rgb_mean': statistics.mean_image.mean((0, 1)).tolist(),
      'rgb_covariance': covariance.tolist(),
      'splits': splits,
      'plan': self.plan,
    }
    for leftover in glob.glob(glob.escape(self.output) + '/images-*-of-?????.*'):
      os.remove(leftover)  # of a process that was killed
    _replace(
      os.path.join(self.output, reader.ARRAYS),
      lambda file: np.savez(file, **arrays, **statistics._asdict(), covariance=covariance),  # type: ignore[arg-type]
    )
    _write_json(os.path.join(self.output, reader.REPORT), report)
    tfds_metadata.write_metadata(self.output, self.features, meta)
    _write_json(os.path.join(self.output, reader.META), meta)
    return meta
