"""Completes a store: merges the indices of its shards and writes its metadata."""

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
from alexnet_jax.utils import atomic_io


def finish_store(job: Job, features: Any) -> dict[str, Any]:
  """Writes the metadata of a store whose shards are all finished, and returns it.

  Args:
    job: the store.
    features: its TFDS features.

  Raises:
    UserError: another process finished the store, but its metadata cannot be read.
    RunError: no training image could be decoded.
  """
  try:
    meta = _write_metadata(job, features)
  except FileNotFoundError:
    written = reader.read_meta(job.output)  # another process may have finished first
    if written is None:
      raise
    meta = written
  shutil.rmtree(os.path.join(job.output, reader.PARTS), ignore_errors=True)
  return meta


def _write_metadata(job: Job, features: Any) -> dict[str, Any]:
  indices = {
    split: [dict(np.load(job.paths(split, k)[1])) for k in range(number)]
    for split, number in job.shards.items()
  }
  arrays = {
    f'{split}/{field}': np.concatenate([index[field] for index in shards])
    for split, shards in indices.items()
    for field in reader.Index._fields
  }
  sums, report = _merge_sums_and_reports([index for shards in indices.values() for index in shards])
  statistics, covariance = stats.from_sums(sums), stats.covariance(sums)
  splits = {
    split: _describe_split(job, split, [len(index['label']) for index in shards], arrays)
    for split, shards in indices.items()
  }
  meta = {
    'version': reader.VERSION,
    'format': job.settings.format,
    'canvas': job.canvas.settings(),
    'class_names': list(job.source.class_names),
    'class_titles': _class_titles(job),
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
    os.remove(temporary)  # left by a process that was killed
  arrays |= statistics._asdict() | {'covariance': covariance}
  path = os.path.join(job.output, reader.ARRAYS)
  with atomic_io.replacing(path) as file:
    np.savez(file, **arrays)  # type: ignore[arg-type]
  write_json(os.path.join(job.output, reader.REPORT), report)
  tfds_metadata.write_metadata(job.output, features, meta)
  write_json(os.path.join(job.output, reader.META), meta)
  return meta


def _merge_sums_and_reports(indices: list[dict]) -> tuple[stats.Sums, dict[str, list[dict]]]:
  """Returns the sums over all training canvases, and the skipped and repaired files of all shards."""
  size = indices[0]['total'].shape[0]
  sums = stats.add([], size)
  report: dict[str, list[dict]] = {'skipped': [], 'repaired': []}
  for index in indices:
    for total, field in zip(sums, stats.Sums._fields, strict=True):
      np.add(total, index[field], out=total)
    for kind, split, name, reason in json.loads(str(index['report'])):
      report[kind].append({'split': split, 'file': name, 'reason': reason})
  return sums, report


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


def _class_titles(job: Job) -> list[str] | None:
  """Returns the names of the classes in words: those of the source, or those of ImageNet, else None."""
  if job.source.class_titles:
    return list(job.source.class_titles)
  form, _, path = job.config_data.source.partition(':')
  root = pathlib.Path(path).expanduser() if form == 'folder' else pathlib.Path(path)
  return imagenet.titles(job.source.class_names, root, job.config_data.devkit)
