"""PyTorch: state_dicts of torchvision's AlexNet, and of networks with the layers of any recipe.

A state_dict comes as .pth, which PyTorch reads with `weights_only=True`, or as .safetensors, for which no
PyTorch is needed. Formats:

- `torchvision`: its names and its network (recipe `torchvision`); FACTS sections 1 and 9 (T),
  torchvision/models/alexnet.py.
- `pytorch`: planar parameters (`alexnet_jax.interop.layout`) under the names of our layers,
  `conv1.weight` [96, 3, 11, 11], `conv2.weight` [256, 48, 5, 5] ... `fc8.bias`: towers are groups
  (`nn.Conv2d(96, 256, 5, padding=2, groups=2)`), fc6 reads maps flattened as (C, H, W). PyTorch's
  dropout does nothing outside of training; where a recipe's halves, the next layer's weights are halved.
"""

from collections.abc import Mapping
import itertools
import os
import pickle

import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np

from alexnet_jax.config import recipes
from alexnet_jax.errors import UserError
from alexnet_jax.interop import archive, layout

NAMES = {
  'conv1': 'features.0',
  'conv2': 'features.3',
  'conv3': 'features.6',
  'conv4': 'features.8',
  'conv5': 'features.10',
  'fc6': 'classifier.1',
  'fc7': 'classifier.4',
  'fc8': 'classifier.6',
}


def from_torchvision(
  state_dict: Mapping,
  model: ConfigDict | FrozenConfigDict | None = None,
  what: str = 'the state_dict',
) -> dict:
  """Our parameters of a state_dict of torchvision's AlexNet.

  Args:
    state_dict: PyTorch tensors or arrays by name, `features.0.weight` [64, 3, 11, 11] ...
      `classifier.6.bias` [classes]. A `module.` in the names, of DataParallel, is passed over.
    model: `config.model`; recipe `torchvision` if left out. With `num_classes` 0 it has as many as the
      state_dict.
    what: what errors call the state_dict.

  Returns:
    float32 NumPy arrays, `params[layer]['kernel' | 'bias']`.

  Raises:
    UserError: names or shapes are not those of the network; the message lists them by layer.
  """
  own = recipes.get('torchvision').model
  layout.check_same_function(model or own, own, what)
  return _convert(_arrays(state_dict), NAMES, model or own, what, "torchvision's AlexNet")


def from_pytorch(
  state_dict: Mapping, model: ConfigDict | FrozenConfigDict, what: str = 'the state_dict'
) -> dict:
  """Our parameters of a state_dict of a network with the layers of `model`, towers as groups.

  Args:
    state_dict: PyTorch tensors or arrays, named as the layers are, `conv1.weight` ... `fc8.bias`; or, where
      no name is a layer's, in the order of the layers, as PyTorch keeps them (.safetensors does not).
    model: `config.model`. With `num_classes` 0 it has as many as the state_dict.
    what: what errors call the state_dict.

  Returns:
    float32 NumPy arrays, `params[layer]['kernel' | 'bias']`.

  Raises:
    UserError: the network cannot be written so, or shapes are not its own; the message lists them by layer.
  """
  layout.check_planar(model, what)
  arrays = _arrays(state_dict)
  modules = list(dict.fromkeys(name.rpartition('.')[0] for name in arrays))
  names = {layer: layer for layer in model.layers}
  if not names.keys() & set(modules):
    names |= zip(model.layers, modules, strict=False)
  params = _convert(arrays, names, model, what, f'the network of layers {", ".join(names)}')
  return _scaled(params, {layer: 1 / factor for layer, factor in _dropout_factors(model).items()})


def _dropout_factors(model: ConfigDict | FrozenConfigDict) -> dict[str, float]:
  """What dropout multiplies the input of a layer by outside of training, of layers where it does."""
  factor = layout.dropout_factor(model)
  pairs = itertools.pairwise(model.layers) if factor != 1 else ()
  return {layer: factor for before, layer in pairs if 'dropout' in model[before].then}


def _scaled(params: dict, factors: Mapping[str, float]) -> dict:
  """Parameters with the kernels of some layers multiplied: exactly, by powers of two."""
  scaled = {
    layer: params[layer] | {'kernel': params[layer]['kernel'] * np.float32(factor)}
    for layer, factor in factors.items()
  }
  return params | scaled


def _convert(
  arrays: Mapping[str, np.ndarray],
  names: Mapping[str, str],
  model: ConfigDict | FrozenConfigDict,
  what: str,
  network: str,
) -> dict:
  """Our parameters of planar ones, found under `names`, by layer; see `from_pytorch`."""
  model = ConfigDict(model.to_dict())
  bias = arrays.get(f'{names[model.layers[-1]]}.bias', np.zeros(0))
  if not model.num_classes and bias.size > 1:
    model.num_classes = bias.size
  expected = {
    f'{names[layer]}.{name}': shape
    for layer, shapes in layout.planar_shapes(model).items()
    for name, shape in shapes.items()
  }
  found = {name: array.shape for name, array in arrays.items()}
  layout.check_shapes(expected, found, what, f'{network}, {model.num_classes or 1000} classes')
  planar = {
    layer: {name: arrays[f'{theirs}.{name}'] for name in ('weight', 'bias')}
    for layer, theirs in names.items()
  }
  return layout.from_planar(planar, model.towers)


def to_torchvision(params: Mapping) -> dict[str, np.ndarray]:
  """A state_dict of torchvision's AlexNet, of our parameters; the exact inverse of `from_torchvision`.

  Args:
    params: of a network of one tower, as recipe `torchvision` makes.

  Returns:
    float32 NumPy arrays by name.

  Raises:
    UserError: the parameters are of a network that torchvision does not have.
  """
  layers = {name: leaves['kernel'].shape for name, leaves in params.items()}
  if set(layers) != set(NAMES) or any(shape[0] != 1 for shape in layers.values()):
    shown = ', '.join(f'{name} {list(shape)}' for name, shape in sorted(layers.items()))
    raise UserError(
      f'torchvision has no room for layers {shown}: expected are those of recipe torchvision'
    )
  return _state_dict(params, NAMES)


def to_pytorch(params: Mapping, model: ConfigDict | FrozenConfigDict) -> dict[str, np.ndarray]:
  """A state_dict of our parameters, float32 arrays by name; the exact inverse of `from_pytorch`.

  Args:
    params: of the network of `model`.
    model: `config.model`.

  Raises:
    UserError: the network cannot be written so.
  """
  layout.check_planar(model, '--format=pytorch')
  params = _scaled(dict(params), _dropout_factors(model))
  return _state_dict(params, {layer: layer for layer in model.layers})


def _state_dict(params: Mapping, names: Mapping[str, str]) -> dict[str, np.ndarray]:
  planar = layout.to_planar(params)
  return {
    f'{theirs}.{name}': np.array(planar[layer][name], np.float32, order='C')
    for layer, theirs in names.items()
    for name in ('weight', 'bias')
  }


def _arrays(state_dict: Mapping) -> dict[str, np.ndarray]:
  """Tensors or arrays as float32, without the `module.` of DataParallel in their names."""
  arrays = {}
  for name, value in state_dict.items():
    if hasattr(value, 'detach'):
      value = value.detach().cpu().float().numpy()
    if not isinstance(value, np.ndarray) or not jnp.issubdtype(value.dtype, jnp.number):
      raise UserError(
        f'the state_dict holds {name!r}, which is no tensor of numbers: save the state_dict alone'
      )
    arrays[str(name).replace('module.', '')] = np.asarray(value, np.float32)
  return arrays


def read(path: str) -> Mapping:
  """The state_dict of a .safetensors file, or of a file of `torch.save` (.pth, .pt).

  The latter may hold it under `state_dict` or `model`, as training scripts write it.

  Raises:
    UserError: there is no such file, it is damaged or holds more than tensors, or PyTorch is missing.
  """
  if not os.path.isfile(path):
    raise UserError(f'--weights={path}: there is no such file')
  if path.endswith('.safetensors'):
    return archive.read_tensors(path)
  torch = _torch(path)
  try:
    loaded = torch.load(path, map_location='cpu', weights_only=True)
  except pickle.UnpicklingError as error:
    raise UserError(
      f'{path} holds other things than tensors, which are not run: save only the state_dict, '
      f'torch.save(model.state_dict(), ...) ({" ".join(str(error).split())[:120]})'
    ) from None
  except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
    raise UserError(
      f'{path} cannot be read as a PyTorch file ({" ".join(str(error).split())[:200]}): fetch it again'
    ) from None
  for key in ('state_dict', 'model'):
    if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
      loaded = loaded[key]
  if not isinstance(loaded, Mapping):
    raise UserError(
      f'{path} holds a {type(loaded).__name__}, not a state_dict: save model.state_dict()'
    )
  return loaded


def write(path: str, state_dict: Mapping[str, np.ndarray]) -> None:
  """Writes a state_dict as .safetensors, or with PyTorch as .pth."""
  if path.endswith('.safetensors'):
    archive.write_tensors(path, state_dict, {'format': 'pt'})
    return
  torch = _torch(path)
  torch.save({name: torch.from_numpy(array) for name, array in state_dict.items()}, path)


def _torch(path: str):
  try:
    import torch
  except ImportError:
    raise UserError(
      f'{path} needs PyTorch: pip install torch, or use a file that ends in .safetensors'
    ) from None
  return torch
