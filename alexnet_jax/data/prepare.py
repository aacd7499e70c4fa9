"""`--mode=prepare`: opens any source and writes its canvases into a store.

`store.writer` describes how a store is written, and `store.reader` what lies in it.
"""

from ml_collections import ConfigDict

from alexnet_jax.data import keys
from alexnet_jax.data.sources import open_source
from alexnet_jax.data.store import reader, writer
from alexnet_jax.data.store.writer import StoreSettings
from alexnet_jax.utils import schema
from alexnet_jax.utils.optional_import import import_module, import_tensorflow

_NEED = '--mode=prepare'


def prepare(config: ConfigDict, output: str, shard: str = '') -> dict[str, object]:
  """Makes, or goes on making, the store `output` of `config.data.source`.

  Args:
    config: the whole config; `data` and `prepare` are used.
    output: folder of the store.
    shard: `i/n`: only the i-th of n parts of the work, i from 1 to n (or from 0); '' does all.

  Returns:
    `{'store', 'format', 'images': {split: number} or None, 'skipped', 'repaired', 'bytes',
    'shards_left', 'report'}`; what is counted over the whole store is None until it is complete.

  Raises:
    UserError: a setting cannot be meant, or `output` holds, or will hold, another store.
    RunError: the disk is full, or no training image could be decoded.
  """
  schema.check(config.prepare, keys.PREPARE, 'config.prepare')
  settings = StoreSettings(**config.prepare.to_dict())
  writer.part_of(shard)
  reader.read_meta(output)
  import_tensorflow(_NEED)
  import_module('tensorflow_datasets', 'tensorflow-datasets', _NEED)
  return writer.write_store(open_source(config.data), config.data, settings, output, shard)
