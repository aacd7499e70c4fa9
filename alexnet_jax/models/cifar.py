"""The CIFAR-10 networks of the paper's sections 3.1 and 3.3, as layers of `config.model` (FACTS section 5).

Files of cuda-convnet, whose names are the errors they reach: `layers-19pct.cfg` (three convolutions and
a softmax layer: the four layers of Figure 1), `layers-18pct.cfg` (the same with normalisation within
maps), `layers-80sec.cfg`, and `layers-conv-local-13pct.cfg` and `-11pct.cfg` (two convolutions, two
locally connected layers: section 3.3's four layers, without and with local response normalisation).
One tower; every pool takes 3x3 pixels, 2 apart, rounded up, so 32 -> 16 -> 8 -> 4 pixels.
"""

from ml_collections import ConfigDict

from alexnet_jax.models import spec


def four_layers(normalised: bool = False) -> dict[str, ConfigDict]:
  """`19pct`, 89,578 parameters at 32x32; `normalised`: `18pct`, with norms within maps after two pools."""
  norm = ('map_norm',) if normalised else ()
  return {
    'conv1': spec.conv(32, 5, 2, std=1e-4, then=('pool', 'act', *norm)),
    'conv2': spec.conv(32, 5, 2, then=('act', 'avg_pool', *norm)),
    'conv3': spec.conv(64, 5, 2, then=('act', 'avg_pool')),
    'fc4': spec.head(),
  }


def eighty_seconds() -> dict[str, ConfigDict]:
  """`80sec`, 145,578 parameters at 32x32: 64 hidden units after the convolutions."""
  return four_layers() | {
    'fc4': spec.fc(64, std=0.1, bias=0.0, then=('act',)),
    'fc5': spec.head(std=0.1),
  }


def conv_local(normalised: bool) -> dict[str, ConfigDict]:
  """`conv-local-13pct`, or `normalised` the `11pct`: 1,116,490 parameters at 24x24."""
  then = ('act', 'norm', 'pool') if normalised else ('act', 'pool')
  return {
    'conv1': spec.conv(64, 5, 2, std=1e-4, then=then),
    'conv2': spec.conv(64, 5, 2, then=then),
    'local3': spec.conv(32, 3, 1, std=0.04),
    'local4': spec.conv(32, 3, 1, std=0.04),
    'fc5': spec.head(),
  }
