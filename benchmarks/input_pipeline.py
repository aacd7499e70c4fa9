"""Measures the speed of reading images, compared with the usual pipelines and with the bare JPEG decoder.

  python -m benchmarks.input_pipeline --source=folder:PATH [--rounds=5] [--seconds=3] [--threads=0]

Prints one line of JSON with the images per second of each way to read, as medians of interleaved rounds
with a warm page cache. `ratios` are medians of the ratios within each round:

  raw_files   this pipeline from the image files to uint8 canvases of 256x256 pixels
  jpeg_store  this pipeline from a store of JPEG files, quality 95 (written to a temporary folder)
  raw_store   this pipeline from a store of uint8 arrays
  ordinary    the usual tf.data pipeline from the files: decode (TensorFlow's default DCT), short side to 256,
              random 224 crop, flip, float32, batch; AUTOTUNE
  torch       a PyTorch DataLoader from the files with Pillow and the same transforms, one worker per core
  ceiling     libjpeg-turbo (simplejpeg) alone: it decodes the JPEG files of the store from memory, one worker
              per core; the faster of threads and processes

`cpu_ms` is the processor time per image, for the pipelines that run in this process. On a machine with
other load it is more reliable than elapsed time. `checksums` are sums over all decoded images of their
CRC-32, so they do not depend on the order: raw_files must equal raw_store, and jpeg_store must equal
ceiling. `from_pillow` is the mean difference of our canvases from Pillow's antialiased bicubic scaling,
in grey levels.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
import contextlib
import importlib.metadata
import importlib.util
import io
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from typing import Any
import zlib

import numpy as np
from PIL import Image

BATCH, CANVAS, CROP, CHUNK = 128, 256, 224, 16
PACKAGES = ('tensorflow-cpu', 'simplejpeg', 'cykooz-resizer', 'pillow', 'numpy', 'torch')


def ours(source: str, threads: int) -> Any:
  """Opens a source with the data settings of the recipe `original`, without a cache."""
  from alexnet_jax.config import recipes
  from alexnet_jax.data import open_dataset

  data = recipes.get('original').data
  data.source, data.cache_mib, data.threads = source, 0, threads
  return open_dataset(data, 0)


def ordinary(paths: list[str]) -> Iterator[np.ndarray]:
  """Returns an iterator of float32 batches, made as most tf.data programs make them."""
  import tensorflow as tf

  def load(path):
    image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
    shape = tf.cast(tf.shape(image)[:2], tf.float32)
    size = tf.cast(tf.round(shape * CANVAS / tf.reduce_min(shape)), tf.int32)
    image = tf.image.random_crop(tf.image.resize(image, size), (CROP, CROP, 3))
    return tf.image.random_flip_left_right(image)

  files = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths)).repeat()
  images = files.map(load, num_parallel_calls=tf.data.AUTOTUNE)
  return images.batch(BATCH).prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


class Files:
  """A PyTorch data set of image files with the same transforms: float32 [3, 224, 224]."""

  def __init__(self, paths: list[str]):
    self.paths = paths

  def __len__(self) -> int:
    return len(self.paths)

  def __getitem__(self, i: int) -> np.ndarray:
    with Image.open(self.paths[i]) as file:
      image = file.convert('RGB')
    scale = CANVAS / min(image.size)
    size = [max(CANVAS, round(side * scale)) for side in image.size]
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (np.random.randint(side - CROP + 1) for side in size)
    image = image.crop((left, top, left + CROP, top + CROP))
    if np.random.rand() < 0.5:
      image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image, np.float32).transpose(2, 0, 1)


def torch_batches(paths: list[str], workers: int) -> Iterator[Any]:
  """Returns an endless iterator of the batches of a DataLoader."""
  import torch

  files = Files(paths)
  sampler = torch.utils.data.RandomSampler(files, replacement=True, num_samples=10**9)
  return iter(
    torch.utils.data.DataLoader(
      files, BATCH, sampler=sampler, num_workers=workers, multiprocessing_context='spawn'
    )
  )


def decode_all(encoded: list[bytes]) -> int:
  """Decodes every image into the same buffer and returns the number of images."""
  import simplejpeg

  buffer = np.empty((CANVAS, CANVAS, 3), np.uint8)
  for data in encoded:
    simplejpeg.decode_jpeg(data, 'RGB', buffer=buffer)
  return len(encoded)


def ceiling(encoded: list[bytes], pool: Any) -> Iterator[int]:
  """Yields, without end, the number of images in each chunk that the pool has decoded."""
  chunks = [encoded[i : i + CHUNK] for i in range(0, len(encoded), CHUNK)]
  waiting: list = []
  for chunk in itertools.cycle(chunks):
    waiting.append(pool.submit(decode_all, chunk))
    if len(waiting) > 2 * BATCH // CHUNK:
      yield waiting.pop(0).result()


def rate(
  batches: Iterator[Any], seconds: float, images: Callable[[Any], int]
) -> tuple[float, float]:
  """Returns images per second and the processor time of this process in ms per image, after a warm-up."""
  next(batches)
  start, cpu, done = time.perf_counter(), time.process_time(), 0
  while time.perf_counter() - start < seconds:
    done += images(next(batches))
  elapsed = time.perf_counter() - start
  return done / elapsed, 1000 * (time.process_time() - cpu) / done


def ratios(rates: dict[str, list], sources: Iterable[str]) -> dict[str, float]:
  """Returns the medians of the ratios within each round, which other load affects least."""
  speed = {name: np.asarray([r for r, _ in found]) for name, found in rates.items()}
  speed['ceiling'] = np.maximum(speed['ceiling_threads'], speed['ceiling_processes'])
  return {
    f'{name}/{peer}': round(float(np.median(speed[name] / speed[peer])), 3)
    for name in sources
    for peer in ('ordinary', 'torch', 'ceiling')
    if peer in speed
  }


def checksum(images: Iterator[np.ndarray]) -> str:
  """Returns the sum of the CRC-32 of uint8 images, which does not depend on their order."""
  return f'{sum(zlib.crc32(np.ascontiguousarray(image)) for image in images) % 2**32:08x}'


def canvases(data: Any) -> Iterator[np.ndarray]:
  """Yields all training canvases of a data set."""
  for batch in data.eval_batches(BATCH, split='train'):
    yield from batch['image'][batch['mask']]


def from_pillow(split: Any) -> float:
  """Returns the mean difference of our canvases from Pillow's scaling in grey levels, over <= 300 images."""
  from alexnet_jax.data import decode_canvas

  found = []
  for i in range(0, len(split), -(-len(split) // 300)):
    with Image.open(io.BytesIO(split.read(i))) as file:
      image = file.convert('RGB')
    scale = CANVAS / min(image.size)
    width, height = (max(CANVAS, int(side * scale + 0.5)) for side in image.size)
    left, top = (width - CANVAS) // 2, (height - CANVAS) // 2
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    image = np.asarray(image.crop((left, top, left + CANVAS, top + CANVAS)), int)
    found.append(np.abs(image - decode_canvas(split.read(i))).mean())
  return round(float(np.mean(found)), 3)


def batch_size(batch: dict[str, Any]) -> int:
  """Returns the number of images in a batch."""
  return len(batch['image'])


def measure(
  options: argparse.Namespace, folder: str, stack: contextlib.ExitStack
) -> dict[str, Any]:
  """Measures every way to read and returns the results that are printed."""
  from alexnet_jax.config import recipes
  from alexnet_jax.data import prepare as prepare_lib
  from alexnet_jax.data.splits import cores

  config = recipes.get('original')
  config.data.source = options.source
  stores = {}
  for form in ('jpeg', 'raw'):
    config.prepare.format = form
    stores[form] = os.path.join(folder, form)
    prepare_lib.prepare(config, stores[form])
  sources = {
    'raw_files': options.source,
    'jpeg_store': f'store:{stores["jpeg"]}',
    'raw_store': f'store:{stores["raw"]}',
  }
  data = {name: ours(source, options.threads) for name, source in sources.items()}
  split, stored = (data[name]._images['train'].split for name in ('raw_files', 'jpeg_store'))
  paths = [split.name(i) for i in range(len(split))]
  encoded = [stored.read(i) for i in range(len(stored))]
  threads = stack.enter_context(ThreadPoolExecutor(cores()))
  spawn = multiprocessing.get_context('spawn')
  processes = stack.enter_context(ProcessPoolExecutor(cores(), spawn))
  list(processes.map(decode_all, [encoded[:1]] * cores()))

  runs = {name: (lambda d=d: d.train_batches(0, BATCH), batch_size) for name, d in data.items()}
  runs['ordinary'] = lambda: ordinary(paths), len
  if importlib.util.find_spec('torch'):
    runs['torch'] = lambda: torch_batches(paths, cores()), len
  runs['ceiling_threads'] = lambda: ceiling(encoded, threads), int
  runs['ceiling_processes'] = lambda: ceiling(encoded, processes), int
  rates: dict[str, list] = {name: [] for name in runs}
  for k, (name, (make, images)) in itertools.product(range(options.rounds), runs.items()):
    batches = make()
    rates[name].append(rate(batches, options.seconds, images))
    if hasattr(batches, 'close'):
      batches.close()
    del batches
    print(f'round {k + 1}: {name} {rates[name][-1][0]:.0f} images/s', file=sys.stderr)
  result: dict[str, Any] = {
    name: round(statistics.median(r for r, _ in found), 1) for name, found in rates.items()
  }
  result.setdefault('torch', None)
  result['ceiling'] = max(result['ceiling_threads'], result['ceiling_processes'])
  inside = [*sources, 'ordinary', 'ceiling_threads']
  result['cpu_ms'] = {n: round(statistics.median(c for _, c in rates[n]), 3) for n in inside}
  result['ratios'] = ratios(rates, sources)
  result['checksums'] = {name: checksum(canvases(d)) for name, d in data.items()}
  result['checksums']['ceiling'] = checksum(decoded(encoded))
  result['from_pillow'] = from_pillow(split)
  result['images'] = len(paths)
  for d in data.values():
    d.close()
  return result


def decoded(encoded: list[bytes]) -> Iterator[np.ndarray]:
  """Yields the images that the measurement `ceiling` decodes."""
  import simplejpeg

  return (simplejpeg.decode_jpeg(data, 'RGB') for data in encoded)


def version(package: str) -> str | None:
  """Returns the version of a package, or None if it is not installed."""
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def main() -> None:
  """Parses the flags, measures the pipelines and prints the result."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument('--source', required=True, help='folder:PATH')
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument(
    '--seconds', type=float, default=3.0, help='duration of each measurement in seconds'
  )
  parser.add_argument(
    '--threads', type=int, default=0, help='threads of our pipeline; 0 means one per core'
  )
  options = parser.parse_args()
  if not options.source.startswith('folder:'):
    parser.error(f'--source={options.source}: pass a folder of images as folder:PATH')
  from alexnet_jax.utils import memory

  memory.keep_freed_memory()
  with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
    result = measure(options, folder, stack)
  result |= {
    'source': options.source,
    'rounds': options.rounds,
    'hardware': f'{os.cpu_count()} cores, {platform.machine()}',
    'versions': {'python': platform.python_version()} | {p: version(p) for p in PACKAGES},
  }
  print(json.dumps(result))


if __name__ == '__main__':
  main()
