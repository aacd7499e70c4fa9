"""LeNet-5 (LeCun, Bottou, Bengio, Haffner, 1998), which every account of AlexNet compares it with.

61,706 parameters: 60 k, as its authors say of theirs. As there, every unit up to F6 is squashed: what a
convolution gives before it is pooled, and what the pool gives once more. Three things of the paper of 1998
are left out, as nearly everybody leaves them out: its second convolution reads only some of the six maps
(we read all, 900 weights more), its pools have a trainable factor and bias (44 numbers), and its last layer
measures distances to drawn pictures of digits (ours is linear, 850 numbers).
"""

from ml_collections import ConfigDict

from alexnet_jax.models import spec

# Its activation is 1.7159 tanh(2x/3); weights of this many inputs were drawn from +-2.4 / inputs.
ACTIVATION = 'scaled_tanh'
_RANGE = 2.4


def _std(inputs: int) -> float:
  """The deviation of a uniform draw from +-2.4 / inputs (section "Multi-layer perceptrons", appendix A)."""
  return _RANGE / inputs / 3**0.5


def lenet5() -> dict[str, ConfigDict]:
  """C1, S2, C3, S4, C5, F6 and the output layer, on 28x28 pixels with a border of two zeros."""
  pooled = ('act', 'avg_pool', 'act')
  return {
    'conv1': spec.conv(6, 5, 2, std=_std(25), then=pooled),
    'conv2': spec.conv(16, 5, 0, std=_std(150), then=pooled),
    'conv3': spec.conv(120, 5, 0, std=_std(400)),
    'fc4': spec.fc(84, std=_std(120), bias=0.0, then=('act',)),
    'fc5': spec.head(std=_std(84)),
  }
