"""LeNet-5 (LeCun, Bottou, Bengio and Haffner, 1998), the network that AlexNet is usually compared with.

It has 61,706 parameters; its authors state 60,000. As in their paper, the activation follows every
convolution and every pooling layer. Like most implementations, this one differs from the paper in three ways:

- Its second convolution reads all six maps, where the paper's reads only some of them (900 weights fewer).
- Its pooling layers have no trainable factor and bias (the paper's have 44 such parameters).
- Its last layer is linear (850 parameters), where the paper's measures distances to drawn digits.
"""

from ml_collections import ConfigDict

from alexnet_jax.models import spec

ACTIVATION = 'scaled_tanh'  # 1.7159 tanh(2x/3)
_RANGE = 2.4  # initial weights are drawn from -2.4/fan_in ... 2.4/fan_in


def _std(inputs: int) -> float:
  """Returns the standard deviation of U(-2.4/inputs, 2.4/inputs) (LeCun et al. 1998, appendix A)."""
  return _RANGE / inputs / 3**0.5


def lenet5() -> dict[str, ConfigDict]:
  """Returns C1, S2, C3, S4, C5, F6 and the output layer, for 28x28 images padded by two zeros."""
  pooled = ('act', 'avg_pool', 'act')
  return {
    'conv1': spec.conv(6, 5, 2, std=_std(25), then=pooled),
    'conv2': spec.conv(16, 5, 0, std=_std(150), then=pooled),
    'conv3': spec.conv(120, 5, 0, std=_std(400)),
    'fc4': spec.fc(84, std=_std(120), bias=0.0, then=('act',)),
    'fc5': spec.head(std=_std(84)),
  }
