"""torchvision's AlexNet: its state_dict to and from our parameters (recipe `torchvision`).

A state_dict comes as .pth, which PyTorch reads with `weights_only=True`, or as .safetensors, for which no
PyTorch is needed. Source: FACTS sections 1 and 9 (T); torchvision/models/alexnet.py for the names.
"""

from collections.abc import Mapping
import os
import pickle

from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np

from alexnet_jax import recipes
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
  tensors = {name.replace('module.', ''): _array(name, x) for name, x in state_dict.items()}
  model = ConfigDict((model or recipes.get('torchvision').model).to_dict())
  layout.check_same_function(model, recipes.get('torchvision').model, what)
  bias = tensors.get('classifier.6.bias')
  if not model.num_classes and bias is not None and len(bias) > 1:
    model.num_classes = len(bias)
  expected = {
    f'{NAMES[layer]}.{name}': shape
    for layer, shapes in layout.planar_shapes(model).items()
    for name, shape in shapes.items()
  }
  found = {name: tensor.shape for name, tensor in tensors.items()}
  layout.check_shapes(
    expected,
    found,
    what,
    f"torchvision's AlexNet of {model.num_classes or 1000} classes",
  )
  planar = {
    layer: {name: tensors[f'{theirs}.{name}'] for name in ('weight', 'bias')}
    for layer, theirs in NAMES.items()
  }
  return layout.from_planar(planar, towers=1)


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
  planar = layout.to_planar({layer: params[layer] for layer in NAMES})
  return {
    f'{NAMES[layer]}.{name}': np.array(x, np.float32, order='C')
    for layer, arrays in planar.items()
    for name, x in arrays.items()
  }


def _array(name: str, value) -> np.ndarray:
  """A tensor or an array as float32."""
  if hasattr(value, 'detach'):
    value = value.detach().cpu().float().numpy()
  if not isinstance(value, np.ndarray) or value.dtype.kind != 'f':
    raise UserError(
      f'the state_dict holds {name!r}, which is no tensor of numbers: save the state_dict alone'
    )
  return np.asarray(value, np.float32)


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


def write(path: str, params: Mapping) -> None:
  """Writes a state_dict as .safetensors, or with PyTorch as .pth."""
  tensors = to_torchvision(params)
  if path.endswith('.safetensors'):
    archive.write_tensors(path, tensors, {'format': 'pt'})
    return
  torch = _torch(path)
  torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, path)


def _torch(path: str):
  try:
    import torch
  except ImportError:
    raise UserError(
      f'{path} needs PyTorch: pip install torch, or use a file that ends in .safetensors'
    ) from None
  return torch
