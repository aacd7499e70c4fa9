"""Stage g: the images per second that the host delivers, and whether a training run waits for them.

The stores are written with NumPy alone and hold random images with the 1/f spectrum of photographs, so that
their JPEG files have about the size of a photograph's. This stage does not need TensorFlow.
"""

import contextlib
import json
import os
import pathlib
import time
from typing import Any

import numpy as np

from alexnet_jax.config import recipes
from alexnet_jax.data import open_dataset
from alexnet_jax.data.decode import Canvas, encode_jpeg
from alexnet_jax.data.store import reader
from benchmarks.gpu import commands, device, plan

_BLOCK, _HEADER = (
  2**16,
  24,
)  # the block size of the ArrayRecord format, which `alexnet_jax.data.store.records` reads
_QUALITY, _SUBSAMPLING = 95, '420'
_CLASSES = 10
_DEVIATION = 55.0  # standard deviation of the pixels in grey levels
_BATCH = 128


def picture(rng: np.random.Generator, size: int) -> np.ndarray:
  """Returns a random colour image with a 1/f spectrum, uint8 `[size, size, 3]`."""
  frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
  frequency[0, 0] = 1.0
  noise = rng.standard_normal((4, *frequency.shape)) + 1j * rng.standard_normal(
    (4, *frequency.shape)
  )
  layers = np.fft.irfft2(noise / frequency, (size, size))
  layers /= layers.std((1, 2), keepdims=True)
  colours = layers[:1] + 0.3 * layers[1:]  # the channels of a photograph are strongly correlated
  return np.clip(128 + _DEVIATION * colours.transpose(1, 2, 0), 0, 255).astype(np.uint8)


def write_store(folder: pathlib.Path, form: str, images: list[np.ndarray]) -> float:
  """Writes a store of canvases that `store:PATH` reads; returns the mean bytes per image.

  It holds only the parts that the reader uses: no TFDS metadata and no ArrayRecord headers.
  """
  folder.mkdir(parents=True)
  payloads = [
    image.tobytes() if form == 'raw' else encode_jpeg(image, _QUALITY, _SUBSAMPLING)
    for image in images
  ]
  size = len(images[0])
  sizes = np.asarray([len(payload) for payload in payloads], np.int32)
  stream = b''.join(payloads)
  part = _BLOCK - _HEADER
  file = b''.join(
    bytes(_HEADER) + stream[start : start + part] for start in range(0, len(stream), part)
  )
  labels = (np.arange(len(images)) % _CLASSES).astype(np.int32)
  offsets = (np.cumsum(sizes, dtype=np.int64) - sizes).astype(np.int64)
  rows = np.arange(len(images), dtype=np.int32)
  index = reader.Index(labels, offsets, sizes, rows)._asdict()
  name = reader.file_name('train', 0, 1)
  (folder / name).write_bytes(file)
  statistics = {
    'mean_image': np.mean(images, 0, dtype=np.float32),
    'eigenvectors': np.eye(3, dtype=np.float32),
    'deviations': np.ones(3, np.float32),
  }
  arrays = {f'train/{field}': values for field, values in index.items()}
  np.savez(folder / reader.ARRAYS, **arrays, **statistics)
  shard = {'file': name, 'bytes': len(file), 'images': len(images)}
  meta = {
    'version': reader.VERSION,
    'format': form,
    'canvas': Canvas(size)._asdict(),
    'class_names': [f'class {i}' for i in range(_CLASSES)],
    'splits': {'train': {'shards': [shard]}},
  }
  (folder / reader.META).write_text(json.dumps(meta))
  return float(sizes.mean())


def delivered(source: str, size: int, threads: int, seconds: float) -> float:
  """Returns the images per second that `threads` Python threads read from a source."""
  data = recipes.get('original').data
  data.source, data.cache_mib, data.threads, data.canvas.size = source, 0, threads, size
  data.loader = 'threads'
  with contextlib.closing(open_dataset(data, 0)) as dataset:
    batches = dataset.train_batches(0, _BATCH)
    next(batches)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
      count += len(next(batches)['image'])
    rate = count / (time.perf_counter() - began)
    batches.close()
  return round(rate, 1)


def input_path(context: plan.Context) -> dict[str, Any]:
  """Measures images per second from a raw and a JPEG store by threads, and runs `main.py` on each store."""
  folder = commands.fresh(context.output / 'work' / 'input')
  size, count = (72, 160) if context.small else (256, 1024)
  seconds, batch = (0.2, 16) if context.small else (3.0, 256)
  rng = np.random.default_rng(0)
  images = [picture(rng, size) for _ in range(count)]
  numbers = (1, 2) if context.small else (1, 2, 4, 8, 16)
  result: dict[str, Any] = {'canvas': size, 'images': count, 'cores': os.cpu_count()}
  result |= {'bytes_per_image': {}, 'images_per_s': {}, 'main_py': {}}
  for form in ('jpeg', 'raw'):
    result['bytes_per_image'][form] = write_store(folder / form, form, images)
    source = f'store:{folder / form}'
    result['images_per_s'][form] = {
      str(threads): delivered(source, size, threads, seconds) for threads in numbers
    }
    if context.small and form == 'raw':
      continue  # in a small stage one run of main.py suffices
    result['main_py'][form] = commands.waiting(context, source, batch, context.seconds)
  commands.fresh(folder)
  return result | device.describe()
