"""`tfds:NAME`: any TensorFlow Datasets set with an image and a class label.

Sets prepared as ArrayRecord are read by index. TFRecord has no random access: such a set is read
into memory once, encoded, if it is small. Imports tensorflow inside the functions only.
"""

import hashlib
import os
from typing import Any

from absl import logging
import numpy as np
from tqdm import tqdm

from alexnet_jax.data import imagenet
from alexnet_jax.data.splits import Source, Split, import_module, import_tensorflow, split_off
from alexnet_jax.errors import UserError

_MEMORY_LIMIT = 2 * 2**30  # bytes of encoded images of a TFRecord set
_BLOCK = 1024  # records read at once while collecting labels


def open_tfds(name: str, data_dir: str, share: float, seed: int, manual_dir: str = '') -> Source:
  """Opens `tfds:NAME`, after preparing it as ArrayRecord if it is not prepared yet.

  Args:
    name: a name as `tfds.builder` takes it: `mnist`, `imagenet2012:5.1.0`, `name/config`.
    data_dir: where TFDS keeps its sets; '' means its default.
    share: share of `train` to hold out if neither `validation` nor `test` has labels.
    seed: draws what is held out.
    manual_dir: where archives lie that one has to fetch oneself; '' means TFDS's default.

  Raises:
    UserError: unknown name, it cannot be prepared, no train split, no image or no class label,
      or a TFRecord set that is too large.
  """
  need = f'config.data.source=tfds:{name}'
  import_tensorflow(need)
  tfds = import_module('tensorflow_datasets', 'tensorflow-datasets', need)
  builder = _prepared_builder(tfds, name, data_dir or None, need, manual_dir)
  if 'train' not in builder.info.splits:
    raise UserError(f'{need} has no split train; it has {", ".join(builder.info.splits)}')
  image = _feature(builder, tfds.features.Image, 'image', need)
  label = _feature(builder, tfds.features.ClassLabel, 'label', need)
  names = tuple(builder.info.features[label].names)
  train = _open_split(tfds, builder, 'train', image, label, need)
  if train.labels.min(initial=0) < 0 or not len(train):
    raise UserError(f'{need} has no labels, or no images, in its split train')
  for split in ('validation', 'test'):
    if split in builder.info.splits:
      validation = _open_split(tfds, builder, split, image, label, need)
      if len(validation) and validation.labels.min() >= 0:  # -1 where the labels are secret
        return Source(train, validation, names)
  return Source(*split_off(train, train.labels, share, seed), names)


def _prepared_builder(
  tfds: Any, name: str, data_dir: str | None, need: str, manual_dir: str
) -> Any:
  """A builder whose files are there, downloaded and prepared if need be."""
  try:
    builder = tfds.builder(name, data_dir=data_dir)
  except Exception as error:  # TFDS raises half a dozen types, each with pages of text.
    raise UserError(f'{need}: TFDS does not know it: {_first_line(error)}') from error
  if builder.is_prepared():
    return builder
  logging.info('%s is not prepared yet; preparing it in %s', need, builder.data_dir)
  try:
    builder = tfds.builder(name, data_dir=data_dir, file_format='array_record')
    config = tfds.download.DownloadConfig(manual_dir=manual_dir or None)
    if builder.name == 'imagenet2012':
      imagenet.check_archives(
        manual_dir or os.path.join(builder._data_dir_root, 'downloads/manual')
      )
    builder.download_and_prepare(download_config=config)
  except UserError:
    raise
  except Exception as error:
    raise UserError(
      f'{need} could not be prepared in {builder.data_dir} ({_first_line(error)}); set'
      ' config.data.data_dir to the folder of a prepared set, or config.data.manual_dir to that of its'
      ' archives'
    ) from error
  return builder


def _first_line(error: Exception) -> str:
  return f'{type(error).__name__}: {str(error).strip()}'.splitlines()[0][:300]


def _feature(builder: Any, kind: type, usual: str, need: str) -> str:
  """The key of the feature of a kind; of several, the one with the usual name, else the first."""
  keys = [key for key, feature in builder.info.features.items() if isinstance(feature, kind)]
  if not keys:
    raise UserError(f'{need} has no feature of kind {kind.__name__}, so it cannot be classified')
  return usual if usual in keys else keys[0]


def _open_split(tfds: Any, builder: Any, split: str, image: str, label: str, need: str) -> Split:
  decoders = {image: tfds.decode.SkipDecoding()}

  def name(i: int) -> str:
    return f'{builder.info.full_name}/{split}/{i}'

  if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
    records = builder.as_data_source(split, decoders=decoders)
    labels = _cached_labels(builder, split, records, label)
    return Split(labels, lambda i: records[i][image], name)
  if builder.info.splits[split].num_bytes > _MEMORY_LIMIT:
    raise UserError(
      f'{need} is prepared as {builder.info.file_format.value}, which has no random access, and is'
      f' too large for memory; prepare it again, in another data_dir, with'
      f' tfds.builder({builder.name!r}, file_format="array_record").download_and_prepare()'
    )
  logging.info('reading the encoded images of %s, split %s, into memory', need, split)
  order = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
  dataset = builder.as_dataset(split, decoders=decoders, read_config=order)
  pairs = [(r[image], r[label]) for r in dataset.as_numpy_iterator()]
  labels = np.asarray([label for _, label in pairs], np.int32)
  return Split(labels, lambda i: pairs[i][0], name)


def _cached_labels(builder: Any, split: str, records: Any, label: str) -> np.ndarray:
  """All labels of a split, int32 [N].

  They lie in the records, between the images, so collecting them reads the whole set once. The
  result is kept beside the records, under a name that depends on their description.
  """
  description = builder.info.as_json.encode()
  digest = hashlib.sha256(description).hexdigest()[:16]
  path = os.path.join(builder.data_dir, f'alexnet_jax-{split}-{label}-{digest}.npy')
  try:
    labels = np.load(path)
    if labels.shape == (len(records),) and labels.dtype == np.int32:
      return labels
  except (OSError, ValueError, EOFError):
    pass  # not there, or damaged
  labels = np.zeros(len(records), np.int32)
  blocks = range(0, len(records), _BLOCK)
  for start in tqdm(blocks, desc=f'labels of {split}', unit='block', disable=None):
    rows = range(start, min(start + _BLOCK, len(records)))
    labels[rows.start : rows.stop] = [r[label] for r in records.__getitems__(list(rows))]
  try:
    with open(f'{path}.{os.getpid()}', 'wb') as file:
      np.save(file, labels)
    os.replace(file.name, path)
  except OSError as error:
    logging.warning('labels of %s are not kept for the next run: %s', builder.info.full_name, error)
  return labels
