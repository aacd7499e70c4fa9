"""PyTorch: state_dicts of torchvision's AlexNet, and of networks with the layers of any recipe.

A state_dict is a .pth file, which PyTorch reads with `weights_only=True`, or a .safetensors file, which needs
no PyTorch. There are two formats:

- `torchvision`: the names and the network of torchvision/models/alexnet.py, which is recipe
  `torchvision` (docs/FACTS.md, sections 1 and 9).
- `pytorch`: planar parameters (`alexnet_jax.interop.layout`) under the names of our layers, `conv1.weight`
  [96, 3, 11, 11], `conv2.weight` [256, 48, 5, 5] and so on to `fc8.bias`. Towers are groups
  (`nn.Conv2d(96, 256, 5, padding=2, groups=2)`), and fc6 reads maps flattened as (C, H, W). PyTorch's
  dropout has no effect outside of training. Where a recipe's dropout halves activations there, the exported
  weights of the next layer are halved instead.
"""

from collections.abc import Mapping
import itertools
import os
import re
import zipfile

import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np

from alexnet_jax.config import recipes
from alexnet_jax.errors import UserError
from alexnet_jax.interop import layout
from alexnet_jax.utils.optional_import import import_module
from alexnet_jax.workdir import archive

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
_PIXELS = 36  # of each map that fc6 of torchvision's AlexNet reads


def from_torchvision(
  state_dict: Mapping,
  model: ConfigDict | FrozenConfigDict | None = None,
  what: str = 'the state_dict',
) -> dict:
  """Converts a state_dict of torchvision's AlexNet to our parameters.

  Args:
    state_dict: PyTorch tensors or arrays by name, from `features.0.weight` [64, 3, 11, 11] to
      `classifier.6.bias` [classes]. The prefix `module.` that DataParallel adds is ignored.
    model: `config.model`; by default that of recipe `torchvision`. With `num_classes` 0 the number of
      classes is that of the state_dict.
    what: the name of the state_dict, for messages.

  Returns:
    float32 NumPy arrays, `params[layer]['kernel' | 'bias']`.

  Raises:
    UserError: names or shapes differ from those of the network. The message lists them.
  """
  own = recipes.get('torchvision').model
  layout.check_same_function(model or own, own, what)
  return _convert(_arrays(state_dict), NAMES, model or own, what, "torchvision's AlexNet")


def from_pytorch(
  state_dict: Mapping, model: ConfigDict | FrozenConfigDict, what: str = 'the state_dict'
) -> dict:
  """Converts a state_dict of a network with the layers of `model`, and towers as groups, to our parameters.

  Args:
    state_dict: PyTorch tensors or arrays. They have the names of our layers, `conv1.weight` ... `fc8.bias`,
      or, if no name is that of a layer, any names in the order of the layers. A .pth file keeps that order;
      a .safetensors file does not. The prefix `module.` that DataParallel adds is ignored.
    model: `config.model`. With `num_classes` 0 the number of classes is that of the state_dict.
    what: the name of the state_dict, for messages.

  Returns:
    float32 NumPy arrays, `params[layer]['kernel' | 'bias']`.

  Raises:
    UserError: the format cannot hold the network, or shapes differ. The message lists them.
  """
  layout.check_planar(model, what, 'name the config of another network')
  arrays = _arrays(state_dict)
  modules = list(dict.fromkeys(name.rpartition('.')[0] for name in arrays))
  names = {layer: layer for layer in model.layers}
  if not names.keys() & set(modules):
    names |= zip(model.layers, modules, strict=False)
  params = _convert(arrays, names, model, what, f'the network of layers {", ".join(names)}')
  return _scaled(params, {layer: 1 / factor for layer, factor in _dropout_factors(model).items()})


def _dropout_factors(model: ConfigDict | FrozenConfigDict) -> dict[str, float]:
  """Returns, for each layer whose input dropout scales outside of training, the factor."""
  factor = layout.dropout_factor(model)
  pairs = itertools.pairwise(model.layers) if factor != 1 else ()
  return {layer: factor for before, layer in pairs if 'dropout' in model[before].then}


def _scaled(params: dict, factors: Mapping[str, float]) -> dict:
  """Returns parameters with the kernels of some layers multiplied; exact if the factors are powers of two."""
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
  """Converts planar parameters to ours; `names` gives for each layer its name in the state_dict."""
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
  archive.check_shapes(expected, found, what, f'{network}, {model.num_classes or 1000} classes')
  planar = {
    layer: {name: arrays[f'{theirs}.{name}'] for name in ('weight', 'bias')}
    for layer, theirs in names.items()
  }
  return layout.from_planar(planar, model)


def to_torchvision(params: Mapping) -> dict[str, np.ndarray]:
  """Converts our parameters to a state_dict of torchvision's AlexNet, inverting `from_torchvision` exactly.

  Args:
    params: parameters of a network with one tower, as recipe `torchvision` has.

  Returns:
    float32 NumPy arrays by name.

  Raises:
    UserError: the layers are not those of torchvision's AlexNet, or fc6 reads other maps than 6x6 pixels.
  """
  layers = {name: leaves['kernel'].shape for name, leaves in params.items()}
  if set(layers) != set(NAMES) or any(shape[0] != 1 for shape in layers.values()):
    shown = ', '.join(f'{name} {list(shape)}' for name, shape in sorted(layers.items()))
    raise UserError(
      f'torchvision cannot hold the layers {shown}: it needs those of recipe torchvision'
    )
  state_dict = _state_dict(params, NAMES)
  pixels = state_dict['classifier.1.weight'].shape[1] // state_dict['features.10.bias'].size
  if pixels != _PIXELS:
    raise UserError(
      f"torchvision's fc6 reads {_PIXELS} pixels (6x6) of each map, that of this network {pixels}: choose "
      '--format=pytorch'
    )
  return state_dict


def to_pytorch(params: Mapping, model: ConfigDict | FrozenConfigDict) -> dict[str, np.ndarray]:
  """Converts our parameters to a state_dict; the exact inverse of `from_pytorch`.

  Args:
    params: parameters of the network of `model`.
    model: `config.model`.

  Returns:
    float32 NumPy arrays by name.

  Raises:
    UserError: the format cannot hold the network.
  """
  layout.check_planar(model, '--format=pytorch', 'choose --format=safetensors')
  params = _scaled(dict(params), _dropout_factors(model))
  return _state_dict(params, {layer: layer for layer in model.layers})


def _state_dict(params: Mapping, names: Mapping[str, str]) -> dict[str, np.ndarray]:
  """Returns planar parameters under new names; `names` has all layers, in order."""
  planar = layout.to_planar(params, tuple(names))
  return {
    f'{theirs}.{name}': np.array(planar[layer][name], np.float32, order='C')
    for layer, theirs in names.items()
    for name in ('weight', 'bias')
  }


def _arrays(state_dict: Mapping) -> dict[str, np.ndarray]:
  """Returns the tensors or arrays as float32, without the prefix of DataParallel in their names."""
  arrays = {}
  for name, value in state_dict.items():
    if hasattr(value, 'detach'):
      value = value.detach().cpu().float().numpy()
    if not isinstance(value, np.ndarray) or not jnp.issubdtype(value.dtype, jnp.number):
      raise UserError(
        f'the state_dict holds {name!r}, which is not a tensor of numbers: save only the state_dict'
      )
    arrays[_without_data_parallel(str(name))] = np.asarray(value, np.float32)
  return arrays


def _without_data_parallel(name: str) -> str:
  """Removes what `torch.nn.DataParallel` adds to a name when it wraps the network or AlexNet's `features`."""
  name = name.removeprefix('module.')
  if name.startswith('features.module.'):  # PyTorch's ImageNet example wraps only the convolutions
    name = name.replace('module.', '', 1)
  return name


def read(path: str) -> Mapping:
  """Reads the state_dict in a .safetensors file, or in a file of `torch.save` (.pth, .pt).

  A file of `torch.save` may hold it under the key `state_dict` or `model`, as training scripts write it.

  Raises:
    UserError: the file is missing or damaged, it holds more than tensors, or PyTorch is not installed.
  """
  if not os.path.isfile(path):
    raise UserError(f'--weights={path}: there is no such file')
  if archive.has_suffix(path):
    return archive.read_tensors(path)
  torch = import_module('torch', 'torch', path)
  _check_zip(path)
  try:
    loaded = torch.load(path, map_location='cpu', weights_only=True)
  except Exception as error:  # PyTorch raises many types on damaged files
    if refused := re.search(r'(?i)unsupported global:? (?:GLOBAL )?([\w.]+)', str(error)):
      raise UserError(
        f'{path} holds other objects than tensors ({refused[1]}), which are not loaded: save only the '
        'state_dict, torch.save(model.state_dict(), ...)'
      ) from None
    raise UserError(f'{path} is not a PyTorch file, or is damaged: download it again') from None
  for key in ('state_dict', 'model'):
    if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
      loaded = loaded[key]
  if not isinstance(loaded, Mapping):
    raise UserError(
      f'{path} holds a {type(loaded).__name__}, not a state_dict: save model.state_dict()'
    )
  return loaded


def _check_zip(path: str) -> None:
  """Raises UserError if a zip file, as `torch.save` writes it, is damaged; PyTorch checks no checksums."""
  if not zipfile.is_zipfile(path):
    return
  try:
    with zipfile.ZipFile(path) as file:
      is_damaged = file.testzip() is not None
  except Exception:  # zipfile raises many types on damaged files
    is_damaged = True
  if is_damaged:
    raise UserError(f'{path} is damaged: download it again')


def write(path: str, state_dict: Mapping[str, np.ndarray]) -> None:
  """Writes a state_dict as .safetensors, or as .pth; raises UserError for .pth without PyTorch."""
  if archive.has_suffix(path):
    archive.write_tensors(path, state_dict, {'format': 'pt'})
    return
  torch = import_module('torch', 'torch', path)
  torch.save({name: torch.from_numpy(array) for name, array in state_dict.items()}, path)
