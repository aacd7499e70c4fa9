"""Measures the speed of reading images, compared with the usual pipelines and with the bare JPEG decoder.

  python -m benchmarks.input_pipeline --source=folder:PATH [--rounds=5] [--seconds=3] [--threads=0]

Prints one line of JSON with the images per second of each way to read, as medians of interleaved rounds
with a warm page cache. `ratios` are medians of the ratios within each round:

  raw_files   tf.data, this pipeline's default, from the image files to uint8 canvases of 256x256 pixels
  jpeg_store  the same from a store of JPEG files, quality 95 (written to a temporary folder)
  raw_store   the same from a store of uint8 arrays
  raw_files_threads, jpeg_store_threads, raw_store_threads
              the same batches, read by Python threads (config.data.loader=threads)
  ordinary    the usual tf.data pipeline from the files: decode (TensorFlow's default DCT), short side to 256,
              random 224 crop, flip, float32, batch; AUTOTUNE
  torch       a PyTorch DataLoader from the files with Pillow and the same transforms, one worker per core
  ceiling     libjpeg-turbo (simplejpeg) alone: it decodes the JPEG files of the store from memory, one worker
              per core; the faster of threads and processes

`scaling` has the images per second of each source and loader with 1, 2, 4 and 8 decoding threads (--scaling).
`first_batch_s` is the time to the first batch, after TensorFlow has been imported. `cpu_ms` is the processor
time per image, for the pipelines that run in this process. On a machine with other load it is more reliable
than elapsed time. `checksums` are sums over all decoded images of their CRC-32, so they do not depend on the
order: raw_files must equal raw_store, jpeg_store must equal ceiling, and both loaders must agree.
`from_pillow` is the mean difference of our canvases from Pillow's antialiased bicubic scaling in grey levels.
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
from typing import Any, NamedTuple
import zlib

import numpy as np
from PIL import Image

BATCH, CANVAS, CROP, CHUNK = 128, 256, 224, 16
LOADERS = {
  'tf.data': '',
  'threads': '_threads',
}  # config.data.loader, and the ending of its results
PACKAGES = ('tensorflow-cpu', 'simplejpeg', 'cykooz-resizer', 'pillow', 'numpy', 'torch')


def ours(source: str, loader: str, threads: int) -> Any:
  """Opens a source with the data settings of the recipe `original`, without a cache."""
  from alexnet_jax.config import recipes
  from alexnet_jax.data import open_dataset

  data = recipes.get('original').data
  data.source, data.cache_mib, data.loader, data.threads = source, 0, loader, threads
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


class Measurement(NamedTuple):
  """One measurement of one way to read.

  Attributes:
    rate: images per second, after the first batch.
    cpu_ms: processor time of this process per image, in ms.
    first_s: time to the first batch, in seconds.
  """

  rate: float
  cpu_ms: float
  first_s: float


def timed(
  make: Callable[[], Iterator[Any]], seconds: float, images: Callable[[Any], int]
) -> Measurement:
  """Reads batches for some seconds; `images` returns the number of images in a batch."""
  began = time.perf_counter()
  batches = make()
  next(batches)
  first = time.perf_counter() - began
  start, cpu = time.perf_counter(), time.process_time()
  done = images(next(batches))  # at least one, however long this process is paused
  while time.perf_counter() - start < seconds:
    done += images(next(batches))
  elapsed, used = time.perf_counter() - start, time.process_time() - cpu
  if hasattr(batches, 'close'):
    batches.close()
  return Measurement(done / elapsed, 1000 * used / done, first)


def ratios(rounds: dict[str, list[Measurement]], names: Iterable[str]) -> dict[str, float]:
  """Returns the medians of the ratios within each round, which other load affects least."""
  speed = {name: np.asarray([m.rate for m in found]) for name, found in rounds.items()}
  speed['ceiling'] = np.maximum(speed['ceiling_threads'], speed['ceiling_processes'])
  return {
    f'{name}/{peer}': round(float(np.median(speed[name] / speed[peer])), 3)
    for name in names
    for peer in (f'{name}_threads', 'ordinary', 'torch', 'ceiling')
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


def write_stores(source: str, folder: str) -> dict[str, str]:
  """Writes a JPEG and a raw store of a source into `folder`; returns the three sources by name."""
  from alexnet_jax.config import recipes
  from alexnet_jax.data import prepare as prepare_lib

  config = recipes.get('original')
  config.data.source = source
  sources = {'raw_files': source}
  for form in ('jpeg', 'raw'):
    config.prepare.format = form
    prepare_lib.prepare(config, os.path.join(folder, form))
    sources[f'{form}_store'] = f'store:{os.path.join(folder, form)}'
  return sources


def measure(
  options: argparse.Namespace, folder: str, stack: contextlib.ExitStack
) -> dict[str, Any]:
  """Measures every way to read and returns the results that are printed."""
  from alexnet_jax.data.splits import cores

  sources = write_stores(options.source, folder)
  data, scaled = {}, {}
  for (name, source), loader in itertools.product(sources.items(), LOADERS):
    data[name + LOADERS[loader]] = ours(source, loader, options.threads)
    scaled |= {(name, loader, n): ours(source, loader, n) for n in options.scaling}
  for opened in (*data.values(), *scaled.values()):
    stack.enter_context(contextlib.closing(opened))
  split, stored = (data[name]._images['train'].split for name in ('raw_files', 'jpeg_store'))
  paths = [split.name(i) for i in range(len(split))]
  encoded = [stored.read(i) for i in range(len(stored))]
  pool = stack.enter_context(ThreadPoolExecutor(cores()))
  spawn = multiprocessing.get_context('spawn')
  processes = stack.enter_context(ProcessPoolExecutor(cores(), spawn))
  list(processes.map(decode_all, [encoded[:1]] * cores()))

  runs: dict[Any, tuple] = {
    name: (lambda d=d: d.train_batches(0, BATCH), batch_size) for name, d in (data | scaled).items()
  }
  runs['ordinary'] = lambda: ordinary(paths), len
  if importlib.util.find_spec('torch'):
    runs['torch'] = lambda: torch_batches(paths, cores()), len
  runs['ceiling_threads'] = lambda: ceiling(encoded, pool), int
  runs['ceiling_processes'] = lambda: ceiling(encoded, processes), int
  rounds: dict[Any, list[Measurement]] = {name: [] for name in runs}
  for k, (name, (make, images)) in itertools.product(range(options.rounds), runs.items()):
    rounds[name].append(timed(make, options.seconds, images))
    print(f'round {k + 1}: {name} {rounds[name][-1].rate:.0f} images/s', file=sys.stderr)
  result = summary(rounds, list(data), list(sources), options.scaling)
  result['checksums'] = {name: checksum(canvases(d)) for name, d in data.items()}
  result['checksums']['ceiling'] = checksum(decoded(encoded))
  return result | {'from_pillow': from_pillow(split), 'images': len(paths)}


def summary(
  rounds: dict[Any, list[Measurement]], ours: list[str], sources: list[str], scaling: list[int]
) -> dict[str, Any]:
  """Returns the medians over the rounds, and the ratios of our pipelines to the others."""

  def median(name: Any, field: str, digits: int) -> float:
    return round(statistics.median(getattr(m, field) for m in rounds[name]), digits)

  result: dict[str, Any] = {n: median(n, 'rate', 1) for n in rounds if isinstance(n, str)}
  result.setdefault('torch', None)
  result['ceiling'] = max(result['ceiling_threads'], result['ceiling_processes'])
  result['scaling'] = {
    name: {
      loader: {str(n): median((name, loader, n), 'rate', 1) for n in scaling} for loader in LOADERS
    }
    for name in sources
  }
  inside = [*ours, 'ordinary', 'ceiling_threads']
  result['cpu_ms'] = {name: median(name, 'cpu_ms', 3) for name in inside}
  result['first_batch_s'] = {name: median(name, 'first_s', 3) for name in ours}
  return result | {'ratios': ratios(rounds, ours)}


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
  parser.add_argument(
    '--scaling', default='1,2,4,8', help='numbers of threads for the measurement of scaling'
  )
  options = parser.parse_args()
  options.scaling = [int(n) for n in options.scaling.split(',') if n]
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
