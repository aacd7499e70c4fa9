"""The same networks in TensorFlow and PyTorch, and weights for which every setting changes the logits."""

import functools

import jax
import numpy as np

from alexnet_jax import models

ORDERS = {
  'caffe': ('relu', 'norm', 'pool'),
  'caffe+caffenet': ('relu', 'pool', 'norm'),
}


def in_order(planar: dict, pooled_first: bool = False) -> dict[str, list[np.ndarray]]:
  """Returns all layers of a .caffemodel, also those without parameters, in the order of the network."""
  layers = {'data': []}
  for name, arrays in planar.items():
    layers[name] = [np.asarray(arrays['weight']), np.asarray(arrays['bias'])]
    if name in ('conv1', 'conv2'):
      norm, pool = f'norm{name[-1]}', f'pool{name[-1]}'
      after = (pool, norm) if pooled_first else (norm, pool)
      layers |= {f'relu{name[-1]}': [], **{key: [] for key in after}}
  return layers


def planar_weights(shapes: dict, seed: int = 0) -> dict:
  """Draws planar weights of the given shapes, which give maps of some hundred grey levels.

  Planar is the layout of Caffe and PyTorch: (outputs, inputs, height, width).
  """
  rng = np.random.default_rng(seed)
  gains = {'conv1': 5.0, 'conv2': 6.0, 'fc8': 0.05}
  biases = {'conv1': 40.0, 'conv2': 40.0, 'fc8': 0.2}
  return {
    layer: {
      'weight': rng.normal(
        0, gains.get(layer, 1.5) / np.sqrt(np.prod(arrays['weight'][1:])), arrays['weight']
      ).astype(np.float32),
      'bias': rng.normal(0, biases.get(layer, 5.0), arrays['bias']).astype(np.float32),
    }
    for layer, arrays in shapes.items()
  }


@functools.cache
def ours(model):
  """Returns our compiled network, `f(params, images)`."""
  module = models.create(model)
  return jax.jit(lambda params, x: module.apply({'params': params}, x, train=False))


def tensorflow_logits(planar: dict, images: np.ndarray, order: tuple[str, ...]) -> np.ndarray:
  """Computes Caffe's AlexNet or CaffeNet in TensorFlow from BGR images `[B, 3, S, S]` and planar weights.

  Local response normalisation (LRN) covers all maps, with k 1, n 5, alpha 1e-4 / 5 and beta 0.75. conv2,
  conv4 and conv5 have two groups (docs/FACTS.md section 1).
  """
  import tensorflow as tf

  x = tf.constant(images.transpose(0, 2, 3, 1))
  for layer in ('conv1', 'conv2', 'conv3', 'conv4', 'conv5'):
    kernel, bias = planar[layer]['weight'].transpose(2, 3, 1, 0), planar[layer]['bias']
    groups = x.shape[-1] // kernel.shape[2]
    parts = zip(tf.split(x, groups, -1), np.split(kernel, groups, -1), strict=True)
    padding, stride = {'conv1': ('VALID', 4)}.get(layer, ('SAME', 1))
    x = tf.concat([tf.nn.conv2d(p, k, stride, padding) for p, k in parts], -1) + bias
    operations = {'conv1': order, 'conv2': order, 'conv5': ('relu', 'pool')}.get(layer, ('relu',))
    for operation in operations:
      if operation == 'relu':
        x = tf.nn.relu(x)
      elif operation == 'norm':
        x = tf.nn.lrn(x, depth_radius=2, bias=1.0, alpha=1e-4 / 5, beta=0.75)
      else:
        x = tf.nn.max_pool2d(x, 3, 2, 'VALID')  # sides of 55, 27 and 13 leave no remainder
  x = tf.reshape(tf.transpose(x, (0, 3, 1, 2)), (len(images), -1))
  for layer in ('fc6', 'fc7', 'fc8'):
    x = x @ planar[layer]['weight'].T + planar[layer]['bias']
    x = x if layer == 'fc8' else tf.nn.relu(x)
  return x.numpy()


def torch_two_towers(planar: dict, recipe: str):
  """Returns the recipe `caffe` or `paper` as a PyTorch module with planar weights and towers as groups.

  LRN covers all maps with k 1 and alpha 1e-4 / 5 in Caffe, and the maps of a tower with k 2 and alpha 1e-4 in
  the paper. The layer of PyTorch divides alpha by 5 in both cases (FACTS section 1.3).
  """
  import torch
  from torch import nn
  from torch.nn import functional as f

  paper = recipe == 'paper'
  geometry = {'conv1': (4, 0, 1), 'conv2': (1, 2, 2), 'conv3': (1, 1, 1)}  # stride, padding, groups

  def convolution(layer: str):
    out, inputs, size, _ = planar[layer]['weight'].shape
    stride, padding, groups = geometry.get(layer, (1, 1, 2))
    return nn.Conv2d(inputs * groups, out, size, stride, padding, groups=groups)

  class TwoTowers(nn.Module):
    def __init__(self):
      super().__init__()
      self.maps = nn.ModuleList(convolution(layer) for layer in planar if layer[0] == 'c')
      shapes = (planar[layer]['weight'].shape for layer in planar if layer[0] == 'f')
      self.units = nn.ModuleList(nn.Linear(inputs, out) for out, inputs in shapes)

    def norm(self, x):
      if not paper:
        return f.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0)
      towers = (f.local_response_norm(t, 5, alpha=5e-4, beta=0.75, k=2.0) for t in x.chunk(2, 1))
      return torch.cat(list(towers), 1)

    def forward(self, x):
      x = f.pad(x, (0, 3, 0, 3)) if paper else x
      for i, layer in enumerate(self.maps):
        x = f.relu(layer(x))
        x = self.norm(x) if i < 2 else x
        # Sides of 55, 27 and 13 leave no remainder.
        x = f.max_pool2d(x, 3, 2) if i in (0, 1, 4) else x
      x = x.flatten(1)
      for layer in self.units[:-1]:
        x = f.relu(layer(x))
      return self.units[-1](x)

  network = TwoTowers().eval()
  arrays = [planar[layer][name] for layer in planar for name in ('weight', 'bias')]
  named = zip(network.state_dict(), arrays, strict=True)
  network.load_state_dict({name: torch.from_numpy(np.array(x)) for name, x in named})
  return network


def torch_alexnet(width: float = 1.0, classes: int = 1000):
  """Returns the AlexNet of torchvision. A `width` below 1 makes it narrower."""
  from torch import nn

  def n(features):
    return max(1, round(features * width))

  features = nn.Sequential(
    nn.Conv2d(3, n(64), 11, stride=4, padding=2),
    nn.ReLU(inplace=True),
    nn.MaxPool2d(3, 2),
    nn.Conv2d(n(64), n(192), 5, padding=2),
    nn.ReLU(inplace=True),
    nn.MaxPool2d(3, 2),
    nn.Conv2d(n(192), n(384), 3, padding=1),
    nn.ReLU(inplace=True),
    nn.Conv2d(n(384), n(256), 3, padding=1),
    nn.ReLU(inplace=True),
    nn.Conv2d(n(256), n(256), 3, padding=1),
    nn.ReLU(inplace=True),
    nn.MaxPool2d(3, 2),
  )
  classifier = nn.Sequential(
    nn.Dropout(),
    nn.Linear(n(256) * 36, n(4096)),
    nn.ReLU(inplace=True),
    nn.Dropout(),
    nn.Linear(n(4096), n(4096)),
    nn.ReLU(inplace=True),
    nn.Linear(n(4096), classes),
  )
  flat = nn.Sequential(nn.AdaptiveAvgPool2d((6, 6)), nn.Flatten())

  class AlexNet(nn.Module):
    def __init__(self):
      super().__init__()
      self.features, self.avgpool, self.classifier = features, flat, classifier

    def forward(self, x):
      return self.classifier(self.avgpool(self.features(x)))

  return AlexNet().eval()
