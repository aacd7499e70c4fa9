"""The CIFAR-10 networks of the paper's sections 3.1 and 3.3, as layers of `config.model`.

The source is docs/FACTS.md, section 5.

Each network is a file of cuda-convnet, named after the error that it reaches:

- `layers-19pct.cfg`: three convolutions and a softmax layer, the four layers of Figure 1.
- `layers-18pct.cfg`: the same with normalisation within maps.
- `layers-80sec.cfg`: the same as 19pct with a hidden layer of 64 units; it trains in 80 seconds.
- `layers-conv-local-13pct.cfg` and `layers-conv-local-11pct.cfg`: two convolutions and two locally
  connected layers, the four layers of section 3.3, without and with local response normalisation.

All have one tower. Every pooling layer has 3x3 windows with stride 2 and rounds up: 32, 16, 8, 4 pixels.
"""

from ml_collections import ConfigDict

from alexnet_jax.models import spec


def four_layers(normalised: bool = False) -> dict[str, ConfigDict]:
  """Returns `19pct`, which has 89,578 parameters at 32x32 pixels.

  Args:
    normalised: return `18pct`, which normalises within maps after two of the pooling layers.
  """
  norm = ('map_norm',) if normalised else ()
  return {
    'conv1': spec.conv(32, 5, 2, std=1e-4, then=('pool', 'act', *norm)),
    'conv2': spec.conv(32, 5, 2, then=('act', 'avg_pool', *norm)),
    'conv3': spec.conv(64, 5, 2, then=('act', 'avg_pool')),
    'fc4': spec.head(),
  }


def eighty_seconds() -> dict[str, ConfigDict]:
  """Returns `80sec`, which adds 64 hidden units and has 145,578 parameters at 32x32 pixels."""
  return four_layers() | {
    'fc4': spec.fc(64, std=0.1, bias=0.0, then=('act',)),
    'fc5': spec.head(std=0.1),
  }


def conv_local(normalised: bool) -> dict[str, ConfigDict]:
  """Returns `conv-local-13pct`, which has 1,116,490 parameters at 24x24 pixels.

  Args:
    normalised: return `conv-local-11pct`, which adds local response normalisation.
  """
  then = ('act', 'norm', 'pool') if normalised else ('act', 'pool')
  return {
    'conv1': spec.conv(64, 5, 2, std=1e-4, then=then),
    'conv2': spec.conv(64, 5, 2, then=then),
    'local3': spec.conv(32, 3, 1, std=0.04),
    'local4': spec.conv(32, 3, 1, std=0.04),
    'fc5': spec.head(),
  }
