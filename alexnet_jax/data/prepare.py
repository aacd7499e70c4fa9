"""`--mode=prepare`: writes the canvases of any source into a store.

`store.writer` documents how a store is written, and `store.reader` documents its files.
"""

import os

from ml_collections import ConfigDict

from alexnet_jax.data import keys
from alexnet_jax.data.sources import open_source
from alexnet_jax.data.store import reader, writer
from alexnet_jax.data.store.job import check_folder
from alexnet_jax.utils import schema
from alexnet_jax.utils.optional_import import import_module, import_tensorflow

_NEED = '--mode=prepare'


def prepare(config: ConfigDict, output: str, shard: str = '') -> dict[str, object]:
  """Writes, or continues writing, the store `output` of `config.data.source`.

  Args:
    config: the whole config; `data` and `prepare` are used.
    output: folder of the store.
    shard: `i/n` does the i-th of n parts of the work, with i from 1 to n (or from 0); '' does all.

  Returns:
    `{'store', 'format', 'images': {split: number}, 'skipped', 'repaired', 'bytes', 'shards_left',
    'report'}`. The values that are counted over the whole store are None until it is complete.

  Raises:
    UserError: a setting is invalid, or `output` belongs to another store.
    RunError: the disk is full or out of reach, or too few images can be decoded.
  """
  schema.check(config.prepare, keys.PREPARE, 'config.prepare')
  output = os.path.expanduser(output)
  writer.part_of(shard)
  if reader.read_meta(output) is None:
    check_folder(output)
  import_tensorflow(_NEED)
  import_module('tensorflow_datasets', 'data', _NEED)
  # A set in TFRecord files is read from front to back, not from canvases that were copied as JPEG before.
  source = open_source(ConfigDict(config.data.to_dict() | {'shuffle': 'buffer'}))
  return writer.write_store(source, config.data, config.prepare, output, shard)
