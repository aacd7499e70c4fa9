"""Completes a store: merges the indices of its shards and writes its metadata."""

import contextlib
import glob
import json
import os
import pathlib
import shutil
from typing import Any

import numpy as np

from alexnet_jax.data import imagenet
from alexnet_jax.data import statistics as stats
from alexnet_jax.data.store import reader, tfds_metadata
from alexnet_jax.data.store.job import Job, write_json
from alexnet_jax.errors import RunError
from alexnet_jax.utils import atomic_io


def finish_store(job: Job, features: Any, titles: list[str] | None) -> dict[str, Any]:
  """Writes the metadata of a store whose shards are all finished, and returns it.

  Args:
    job: the store.
    features: its TFDS features.
    titles: its `class_titles`.

  Raises:
    UserError: another process finished the store, but its metadata cannot be read.
    RunError: no training image, or too few images, could be decoded.
  """
  try:
    meta = _write_metadata(job, features, titles)
  except FileNotFoundError:
    written = reader.read_meta(job.output)  # another process may have finished first
    if written is None:
      raise
    meta = written
  shutil.rmtree(os.path.join(job.output, reader.PARTS), ignore_errors=True)
  return meta


def _write_metadata(job: Job, features: Any, titles: list[str] | None) -> dict[str, Any]:
  indices, sums = _read_indices(job)
  arrays = {
    f'{split}/{field}': np.concatenate([index[field] for index in shards])
    for split, shards in indices.items()
    for field in reader.Index._fields
  }
  report = _merge_reports([index for shards in indices.values() for index in shards])
  statistics, covariance = stats.from_sums(sums), stats.covariance(sums)
  write_json(os.path.join(job.output, reader.REPORT), report)
  _check_skipped(job, report['skipped'])
  splits = {
    split: _describe_split(job, split, [len(index['label']) for index in shards], arrays)
    for split, shards in indices.items()
  }
  meta = {
    'version': reader.VERSION,
    'format': job.settings.format,
    'canvas': job.canvas.settings(),
    'class_names': list(job.source.class_names),
    'class_titles': titles,
    'images': {name: sum(s['images'] for s in split['shards']) for name, split in splits.items()},
    'skipped': len(report['skipped']),
    'repaired': len(report['repaired']),
    'bytes': sum(shard['bytes'] for split in splits.values() for shard in split['shards']),
    'rgb_mean': statistics.mean_image.mean((0, 1)).tolist(),
    'rgb_covariance': covariance.tolist(),
    'splits': splits,
    'plan': job.plan,
  }
  for temporary in glob.glob(glob.escape(job.output) + '/images-*-of-?????.*'):
    with contextlib.suppress(FileNotFoundError):
      os.remove(temporary)  # left by a process that was killed
  arrays |= statistics._asdict() | {'covariance': covariance}
  path = os.path.join(job.output, reader.ARRAYS)
  with atomic_io.replacing(path) as file:
    np.savez(file, **arrays)  # type: ignore[arg-type]
  tfds_metadata.write_metadata(job.output, features, meta)
  write_json(os.path.join(job.output, reader.META), meta)
  return meta


def _read_indices(job: Job) -> tuple[dict[str, list[dict]], stats.Sums]:
  """Returns the indices of the shards of each split, and the sums over all training canvases.

  The sums of a shard are as large as four canvases, so they are added up as they are read.
  """
  indices: dict[str, list[dict]] = {split: [] for split in job.shards}
  sums = stats.add([], job.canvas.size)
  for split, shard in job.all_shards:
    with np.load(job.paths(split, shard)[1]) as file:
      index = dict(file)
    for total, field in zip(sums, stats.Sums._fields, strict=True):
      np.add(total, index.pop(field), out=total)
    indices[split].append(index)
  return indices, sums


def _merge_reports(indices: list[dict]) -> dict[str, list[dict]]:
  """Returns the skipped and repaired files of all shards."""
  report: dict[str, list[dict]] = {'skipped': [], 'repaired': []}
  for index in indices:
    for kind, split, name, reason in json.loads(str(index['report'])):
      report[kind].append({'split': split, 'file': name, 'reason': reason})
  return report


def _check_skipped(job: Job, skipped: list[dict]) -> None:
  """Raises RunError if more images were skipped than `config.data` allows."""
  data = job.config_data
  for split, number in job.plan['images'].items():
    if split == 'train':
      allowed = max(1, data.max_bad_share * number)
      kind, setting = 'training', f'a larger config.data.max_bad_share than {data.max_bad_share}'
    else:
      allowed = number if data.drop_bad_validation else 0
      kind, setting = split, 'config.data.drop_bad_validation=True'
    files = sorted(line['file'] for line in skipped if line['split'] == split)
    if len(files) > allowed:
      raise RunError(
        f'{len(files)} of {number} {kind} images cannot be decoded, for example {", ".join(files[:3])} '
        f'(all are in {job.output}/{reader.REPORT}): repair them, remove {job.output} and run the same '
        f'command again; or run it with {setting}, which keeps the finished files'
      )


def _describe_split(
  job: Job, split: str, images: list[int], arrays: dict[str, np.ndarray]
) -> dict[str, Any]:
  """Returns the shards and class counts of a split, as `store.json` holds them."""
  files = [reader.file_name(split, k, len(images)) for k in range(len(images))]
  counts = np.bincount(arrays[f'{split}/label'], minlength=len(job.source.class_names))
  return {
    'shards': [
      {'file': file, 'bytes': os.path.getsize(os.path.join(job.output, file)), 'images': number}
      for file, number in zip(files, images, strict=True)
    ],
    'class_counts': counts.tolist(),
  }


def class_titles(job: Job) -> list[str] | None:
  """Returns the names of the classes in words: those of the source, or those of ImageNet, else None.

  Raises:
    UserError: the ImageNet devkit cannot be read.
  """
  if job.source.class_titles:
    return list(job.source.class_titles)
  form, _, path = job.config_data.source.partition(':')
  root = pathlib.Path(path).expanduser() if form == 'folder' else pathlib.Path(path)
  return imagenet.titles(job.source.class_names, root, job.config_data.devkit)
