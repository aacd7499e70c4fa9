"""Every key of a config, declared once: its default value, its meaning and its allowed values.

The declarations stand beside what they configure: in `models.keys`, in `data.keys`, and in `keys_optim` and
`keys_training` of this package. The default values are those of recipe `paper`.
"""

from collections.abc import Iterator, Sequence

from ml_collections import ConfigDict, FrozenConfigDict

from alexnet_jax.config import keys_training as training
from alexnet_jax.config.keys_optim import OPTIM
from alexnet_jax.data.keys import DATA, PREPARE
from alexnet_jax.models import keys as model_keys
from alexnet_jax.models.alexnet import LAYERS
from alexnet_jax.utils import schema
from alexnet_jax.utils.schema import Key, Schema


def _is_mesh(value: Sequence) -> bool:
  return len(value) == 2 and all(type(number) is int and number >= 0 for number in value)


# All keys but those of `config.model`, which depend on its layers.
KEYS: Schema = {
  'recipe': Key('paper', 'The recipe and the overrides that the config starts from.'),
  'note': Key('', 'A message that is logged when training starts.'),
  'seed': Key(
    0,
    'The seed of the initial parameters, of the order of images, and of random crops, mirroring, '
    'colour noise and dropout.',
    minimum=1 - 2**63,
    maximum=2**63 - 1,
  ),
  'mesh': Key(
    (0, 0),
    'The number of devices along the axes data and tower. (0, 0) chooses it from the number of '
    'devices and of towers.',
    valid=_is_mesh,
    expected='two whole numbers of at least 0, written 1,2 on the command line',
  ),
  'parallelism': Key(
    'towers',
    'How the network is spread over devices: `towers` puts each tower on a device of its own, as '
    'in the paper, and splits the batch over the rest; `owt` is "One weird trick" (arXiv '
    '1404.5997), which splits the batch in convolutions and the units in fully connected layers.',
    choices=('towers', 'owt'),
  ),
  'micro_batches': Key(
    1,
    'The number of parts of a batch that each device computes one after the other, which saves '
    'memory. The update does not depend on it, up to rounding.',
    minimum=1,
  ),
  'init_from': Key(
    '',
    'The run whose layers are copied before training starts: a workdir, of which the latest '
    'checkpoint is used, or a .safetensors file. An empty value copies none.',
  ),
  'init_layers': Key(
    '',
    'The layers that are copied from init_from, separated by commas. An empty value copies all '
    'but the last, which depends on the classes.',
  ),
  'data': DATA,
  'prepare': PREPARE,
  'augment': training.AUGMENT,
  'optim': OPTIM,
  'train': training.TRAIN,
  'eval': training.EVAL,
  'report': training.REPORT,
  'serve': training.SERVE,
  'log': training.LOG,
}


def defaults() -> ConfigDict:
  """Returns the config of recipe `paper`, without its note."""
  model = schema.defaults(model_keys.MODEL) | {name: dict(LAYERS[name]) for name in LAYERS}
  return ConfigDict(schema.defaults(KEYS) | {'model': model})


def flatten(config: ConfigDict | FrozenConfigDict) -> Iterator[tuple[str, Key]]:
  """Yields the declaration of each key that `config` may have, by dotted name such as `optim.rate`."""
  yield from schema.flatten(KEYS)
  for name, key in model_keys.flatten(config.model):
    yield f'model.{name}', key
