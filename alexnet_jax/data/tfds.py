"""`tfds:NAME`: any TensorFlow Datasets (TFDS) set with an image and a class label.

A set prepared as ArrayRecord is read by index. TFRecord has no random access, so a TFRecord set is
read in one of three ways: a small set is read into memory once, encoded; with
`config.data.shuffle=buffer` the set is read in blocks, in a seeded order; otherwise its images are
copied once into a store. TensorFlow is imported inside the functions only.
"""

from collections.abc import Callable, Iterable, Iterator
import functools
import hashlib
import os
import threading
from typing import Any

from absl import logging
from ml_collections import ConfigDict
import numpy as np
from tqdm import tqdm

from alexnet_jax.data import imagenet
from alexnet_jax.data import keys as data_keys
from alexnet_jax.data.decode import Canvas
from alexnet_jax.data.order import BLOCK
from alexnet_jax.data.splits import Source, Split, split_off
from alexnet_jax.data.store import reader, writer
from alexnet_jax.errors import UserError
from alexnet_jax.utils import atomic_io, schema
from alexnet_jax.utils.optional_import import import_module, import_tensorflow

_BYTES_PER_PIXEL = 0.5  # approximate size of JPEG canvases of quality 95
_VALIDATION = ('validation', 'val', 'test')  # the first of them that has labels is used
_LABEL_BLOCK = 1024  # records that are read at once while labels are collected


def open_tfds(name: str, config_data: Any) -> Source:
  """Opens `tfds:NAME`, and first prepares it as ArrayRecord if it is not prepared.

  Args:
    name: a name that `tfds.builder` accepts: `mnist`, `imagenet2012:5.1.0`, `name/config`.
    config_data: `config.data`. The validation images are those of split `validation`, `val` or `test`,
      the first that has labels; without any, the share `holdout` of `train` is held out.

  Raises:
    UserError: the name is unknown, the set cannot be prepared, or it has no training split, image or
      class label.
  """
  need = f'config.data.source=tfds:{name}'
  import_tensorflow(need)
  tfds = import_module('tensorflow_datasets', 'data', need)
  builder = _prepared_builder(tfds, name, need, config_data)
  if 'train' not in builder.info.splits:
    raise UserError(f'{need} has no split train; it has {", ".join(builder.info.splits)}')
  image = _feature_key(builder, tfds.features.Image, 'image', need)
  label = _feature_key(builder, tfds.features.ClassLabel, 'label', need)
  random_access = builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD
  fits = sum(s.num_bytes for s in builder.info.splits.values()) <= config_data.cache_mib * 2**20

  def open_split(split: str) -> Split:
    if random_access:
      return _open_array_record(tfds, builder, split, image, label)
    return _open_tfrecord(tfds, builder, split, image, label, None if fits else config_data.buffer)

  def open_splits() -> Source:
    names = tuple(builder.info.features[label].names)
    train = open_split('train')
    if train.labels.min(initial=0) < 0 or not len(train):
      raise UserError(f'{need} has no labels, or no images, in its split train: choose another set')
    for split in _VALIDATION:
      if split in builder.info.splits:
        validation = open_split(split)
        if len(validation) and validation.labels.min() >= 0:  # TFDS marks secret labels by -1
          return Source(train, validation, names)
    held_out = split_off(train, train.labels, config_data.holdout, config_data.split_seed)
    return Source(*held_out, names)

  if random_access or fits or config_data.shuffle == 'buffer':
    return open_splits()
  return _copy_to_store(builder, open_splits, config_data, need)


def _prepared_builder(tfds: Any, name: str, need: str, config_data: Any) -> Any:
  """Returns a builder whose files exist; downloads and prepares them if necessary."""
  data_dir = config_data.data_dir or None
  try:
    builder = tfds.builder(name, data_dir=data_dir)
  except Exception as error:  # TFDS raises many types, each with pages of text
    raise UserError(f'{need}: TFDS has no such data set: {_first_line(error)}') from error
  if builder.is_prepared():
    return builder
  logging.info('%s is not prepared yet; preparing it in %s', need, builder.data_dir)
  try:
    builder = tfds.builder(name, data_dir=data_dir, file_format='array_record')
    manual_dir = config_data.manual_dir
    if builder.name == 'imagenet2012':
      imagenet.check_archives(
        manual_dir or os.path.join(builder._data_dir_root, 'downloads/manual')
      )
    download_config = tfds.download.DownloadConfig(manual_dir=manual_dir or None)
    builder.download_and_prepare(download_config=download_config)
  except UserError:
    raise
  except Exception as error:
    raise UserError(
      f'{need} could not be prepared in {builder.data_dir} ({_first_line(error)}): set'
      ' config.data.data_dir to the folder of a prepared set, or config.data.manual_dir to the folder'
      ' of its archives'
    ) from error
  return builder


def _first_line(error: Exception) -> str:
  return f'{type(error).__name__}: {str(error).strip()}'.splitlines()[0][:300]


def _feature_key(builder: Any, kind: type, usual: str, need: str) -> str:
  """Returns the key of the feature of a type; of several, the one with the usual name, else the first."""
  keys = [key for key, feature in builder.info.features.items() if isinstance(feature, kind)]
  if not keys:
    raise UserError(
      f'{need} has no feature of type {kind.__name__}: choose a set of images with labels'
    )
  return usual if usual in keys else keys[0]


def _open_array_record(tfds: Any, builder: Any, split: str, image: str, label: str) -> Split:
  records = builder.as_data_source(split, decoders={image: tfds.decode.SkipDecoding()})
  n = len(records)
  blocks = (
    [r[label] for r in records.__getitems__(list(range(i, min(i + _LABEL_BLOCK, n))))]
    for i in range(0, n, _LABEL_BLOCK)
  )
  labels = _cached_labels(builder, split, n, blocks, label)
  return Split(labels, lambda i: records[i][image], _image_names(builder, split))


def _open_tfrecord(
  tfds: Any, builder: Any, split: str, image: str, label: str, buffer: int | None
) -> Split:
  """Opens a TFRecord split.

  Args:
    buffer: None reads the whole split into memory. Otherwise it is read in blocks, and about twice
      as many images are kept in memory.
  """
  read_config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
  n = builder.info.splits[split].num_examples

  def read_pairs(start: int, end: int) -> Iterator[tuple[bytes, int]]:
    part = f'{split}[{start}:{end}]'
    skip = {image: tfds.decode.SkipDecoding()}
    dataset = builder.as_dataset(part, decoders=skip, read_config=read_config)
    return ((r[image], r[label]) for r in dataset.as_numpy_iterator())

  if buffer is None:
    logging.info('reading the encoded images of %s, split %s, into memory', builder.name, split)
    images, known = zip(*read_pairs(0, n), strict=True)
    labels = np.asarray(known, np.int32)
    return Split(labels, images.__getitem__, _image_names(builder, split))
  labels = _cached_labels(builder, split, n, ([k] for _, k in read_pairs(0, n)), label)
  lock = threading.Lock()

  @functools.lru_cache(maxsize=2 * -(-buffer // BLOCK) + 2)
  def block(k: int) -> list[bytes]:
    return [data for data, _ in read_pairs(k * BLOCK, min((k + 1) * BLOCK, n))]

  def read(i: int) -> bytes:
    with lock:  # otherwise two threads would read the same block
      return block(i // BLOCK)[i % BLOCK]

  return Split(labels, read, _image_names(builder, split), sequential=True)


def _image_names(builder: Any, split: str) -> Callable[[int], str]:
  return lambda i: f'{builder.info.full_name}/{split}/{i}'


def _copy_to_store(
  builder: Any, open_splits: Callable[[], Source], config_data: ConfigDict, need: str
) -> Source:
  """Opens the copy of the data set in a store beside its files; the first call writes the store."""
  canvas = Canvas.from_config(config_data.canvas)
  name = f'alexnet_jax-{canvas.size}-{canvas.fit}-{canvas.filter}'
  name += '-upright' if canvas.exif_orientation else ''
  share, seed = config_data.holdout, config_data.split_seed
  usual = schema.defaults(data_keys.DATA)
  is_split = builder.info.splits.keys().isdisjoint(_VALIDATION)
  if is_split and (share, seed) != (usual['holdout'], usual['split_seed']):
    name += f'-{share:g}-{seed}'  # another division into training and validation images
  path = os.path.join(builder.data_dir, name)
  if reader.read_meta(path) is None:
    folder = path if os.path.isdir(path) else builder.data_dir
    if not os.access(folder, os.W_OK):
      raise UserError(
        f'{need} is prepared as {builder.info.file_format.value}, which has no random access, and its '
        f'canvases cannot be copied, because {folder} cannot be written: set config.data.shuffle=buffer, '
        'or write a store elsewhere with --mode=prepare and train on it'
      )
    number = sum(split.num_examples for split in builder.info.splits.values())
    logging.warning(
      '%s is prepared as %s, which has no random access: its canvases are copied once into the store %s'
      ' (about %.2g GiB); with config.data.shuffle=buffer it is read as it is',
      need,
      builder.info.file_format.value,
      path,
      number * canvas.size**2 * _BYTES_PER_PIXEL / 2**30,
    )
    settings = ConfigDict(schema.defaults(data_keys.PREPARE))
    writer.write_store(open_splits(), config_data, settings, path)
  return reader.open_store(path, canvas)


def _cached_labels(
  builder: Any, split: str, n: int, blocks: Iterable[list[int]], label: str
) -> np.ndarray:
  """Returns all labels of a split, int32 [n].

  The labels are stored in the records, between the images, so that collecting them from `blocks`
  reads the whole set once. The result is kept beside the records in a file whose name depends on the
  description of the set.
  """
  description = builder.info.as_json.encode()
  digest = hashlib.sha256(description).hexdigest()[:16]
  path = os.path.join(builder.data_dir, f'alexnet_jax-{split}-{label}-{digest}.npy')
  try:
    labels = np.load(path)
    if labels.shape == (n,) and labels.dtype == np.int32:
      return labels
  except (OSError, ValueError, EOFError):
    pass  # the file does not exist, or it is damaged
  found: list[int] = []
  with tqdm(total=n, desc=f'labels of {split}', unit='image', disable=None) as bar:
    for block in blocks:
      found += block
      bar.update(len(block))
  labels = np.asarray(found, np.int32)
  try:
    with atomic_io.replacing(path) as file:
      np.save(file, labels)
  except OSError as error:
    logging.warning(
      'the labels of %s cannot be kept for the next run: %s', builder.info.full_name, error
    )
  return labels
