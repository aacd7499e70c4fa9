"""The features, records and metadata that make a store a TFDS data set."""

from collections.abc import Callable
import os
from typing import Any

import numpy as np

from alexnet_jax.utils.optional_import import import_module

_NEED = '--mode=prepare'


def make_features(
  form: str, size: int, class_names: tuple[str, ...]
) -> tuple[Any, Callable[[bytes | np.ndarray, int, str], bytes]]:
  """Makes the features of a store.

  Args:
    form: jpeg or raw.
    size: S, the side of the canvas; a payload is a JPEG, or uint8 [S, S, 3].
    class_names: names of the classes, in the order of the labels.

  Returns:
    The `FeaturesDict`, and a function from (payload, label, file name) to a serialised record.

  Raises:
    UserError: TensorFlow Datasets is not installed.
  """
  tfds = import_module('tensorflow_datasets', 'data', _NEED)
  core = import_module('tensorflow_datasets.core.example_serializer', 'data', _NEED)
  shape = (size, size, 3)
  if form == 'jpeg':
    image = tfds.features.Image(shape=shape, dtype=np.uint8, encoding_format='jpeg')
  else:
    image = tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES)
  features = tfds.features.FeaturesDict(
    {
      'image': image,
      'label': tfds.features.ClassLabel(names=list(map(_valid, class_names))),
      'file_name': tfds.features.Text(),
    }
  )
  serializer = core.ExampleSerializer(features.get_serialized_info())

  def serialize(payload: bytes | np.ndarray, label: int, name: str) -> bytes:
    text = name.encode(errors='surrogateescape')  # file names need not be valid Unicode
    example = features.encode_example({'image': payload, 'label': label, 'file_name': text})
    return serializer.get_tf_example(example).SerializeToString(deterministic=True)

  return features, serialize


def write_metadata(output: str, features: Any, meta: dict[str, Any]) -> None:
  """Lets TFDS write dataset_info.json, features.json and the class names.

  Raises:
    UserError: TensorFlow Datasets is not installed.
  """
  tfds = import_module('tensorflow_datasets', 'data', _NEED)
  template = tfds.core.ShardedFileTemplate(
    data_dir=output, dataset_name='images', filetype_suffix='array_record'
  )
  infos = [
    tfds.core.SplitInfo(
      name=name,
      shard_lengths=[shard['images'] for shard in split['shards']],
      num_bytes=sum(shard['bytes'] for shard in split['shards']),
      filename_template=template.replace(split=name),
    )
    for name, split in meta['splits'].items()
  ]
  tfds.folder_dataset.write_metadata(
    data_dir=output,
    features=features,
    split_infos=infos,
    filename_template=template,
    check_data=False,
    description=f'{meta["format"]} canvases of {_valid(meta["plan"]["source"])}, written by alexnet_jax',
  )


def _valid(name: str) -> str:
  """Returns valid Unicode, because TFDS writes UTF-8; store.json keeps the names of folders as they are."""
  return os.fsencode(name).decode('utf-8', 'backslashreplace')
