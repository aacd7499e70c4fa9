"""The original's layout, cuda-convnet's, to and from our parameters (recipe `original`, net 145).

The published code of 2012 holds no trained weights, and cuda-convnet's checkpoints are pickles, which are
not read here. What is read is an .npz or .safetensors file with the very matrices of such a checkpoint:

- `LAYER/weights/I`: matrix I of a layer, one for each layer that feeds it; towers a and b in this order.
  Of a convolution `[C * kH * kW, filters]`, of a fully connected layer `[inputs, outputs]`, where the
  inputs of fc2048a and fc2048b are flattened as (C, H, W).
- `LAYER/biases`: `[filters]`, or with a dimension of one, as cuda-convnet has them.

The layers are net 145's: conv1a, conv1b ... conv5b; fc2048a, fc2048b; fc2048ba, fc2048bb; fc1000. conv3 and
the fully connected layers read both towers, the others only their own. Channels are RGB, labels in the
devkit's order. Source: FACTS sections 1.1, 1.2 and 3.
"""

from collections.abc import Mapping
import zipfile

from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np

from alexnet_jax.config import recipes
from alexnet_jax.errors import UserError
from alexnet_jax.interop import archive, layout

_TOWERS = 2
_DENSE = {'fc6': ('fc2048a', 'fc2048b'), 'fc7': ('fc2048ba', 'fc2048bb'), 'fc8': ('fc1000',)}


def _names(layer: str) -> tuple[str, ...]:
  """What net 145 calls the parts of a layer, one a tower but for the last."""
  return _DENSE.get(layer, (f'{layer}a', f'{layer}b'))


def to_cuda_convnet(params: Mapping) -> dict[str, np.ndarray]:
  """The matrices of net 145, of our parameters: float32 arrays by name.

  Args:
    params: of the two-tower network of recipe `original`, or one of its kind with other widths.
  """
  matrices = {}
  for layer, arrays in layout.to_planar(params).items():
    weight, names = arrays['weight'], _names(layer)
    for name, part, bias in zip(
      names, np.split(weight, len(names)), np.split(arrays['bias'], len(names)), strict=True
    ):
      # A group's inputs are its own tower's maps; the inputs of both towers are cut in two.
      crosses = layer.startswith('fc') or layer == 'conv3'
      sources = np.split(part, _TOWERS, axis=1) if crosses else [part]
      for i, source in enumerate(sources):
        matrices[f'{name}/weights/{i}'] = source.reshape(len(source), -1).T
      matrices[f'{name}/biases'] = bias
  return {name: np.array(x, np.float32, order='C') for name, x in matrices.items()}


def from_cuda_convnet(
  matrices: Mapping[str, np.ndarray],
  model: ConfigDict | FrozenConfigDict | None = None,
  what: str = 'the set of matrices',
) -> dict:
  """Our parameters of the matrices of net 145; the exact inverse of `to_cuda_convnet`.

  Args:
    matrices: by name, as the head of this file says.
    model: `config.model`; recipe `original` if left out. With `num_classes` 0 it has as many as there are.
    what: what errors call them.

  Returns:
    float32 NumPy arrays, `params[layer]['kernel' | 'bias']`.

  Raises:
    UserError: names or shapes are not those of the network; the message lists them.
  """
  model = ConfigDict((model or recipes.get('original').model).to_dict())
  layout.check_same_function(model, recipes.get('original').model, what)
  found = {name: np.asarray(x, np.float32) for name, x in matrices.items()}
  found = {name: x.reshape(-1) if name.endswith('/biases') else x for name, x in found.items()}
  if not model.num_classes and found.get('fc1000/biases', np.zeros(0)).size > 1:
    model.num_classes = found['fc1000/biases'].size
  shapes = layout.planar_shapes(model)
  blank = {
    layer: {name: np.broadcast_to(np.float32(0), shape) for name, shape in arrays.items()}
    for layer, arrays in shapes.items()
  }
  params = layout.from_planar(blank, _TOWERS)
  expected = {name: x.shape for name, x in to_cuda_convnet(params).items()}
  network = f'the matrices of net 145 of {model.num_classes or 1000} classes'
  layout.check_shapes(expected, {name: x.shape for name, x in found.items()}, what, network)
  planar = {}
  for layer, arrays in shapes.items():
    _, *inner = arrays['weight']
    weights, biases = [], []
    for name in _names(layer):
      sources = [found[key] for key in expected if key.startswith(f'{name}/weights/')]
      part = [x.T.reshape(x.shape[1], -1, *inner[1:]) for x in sources]
      weights.append(np.concatenate(part, axis=1))
      biases.append(found[f'{name}/biases'])
    planar[layer] = {'weight': np.concatenate(weights), 'bias': np.concatenate(biases)}
  return layout.from_planar(planar, _TOWERS)


def read(path: str) -> dict[str, np.ndarray]:
  """The arrays of an .npz or .safetensors file; nothing pickled is read.

  Raises:
    UserError: it is missing, damaged, or holds objects.
  """
  if path.endswith('.safetensors'):
    return archive.read_tensors(path)
  try:
    with np.load(path, allow_pickle=False) as file:
      return {name: file[name] for name in file.files}
  except FileNotFoundError:
    raise UserError(f'--weights={path}: there is no such file') from None
  except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
    raise UserError(
      f'{path} is no .npz of plain arrays ({" ".join(str(error).split())[:120]}): '
      'write one with np.savez, or a .safetensors file'
    ) from None


def write(path: str, params: Mapping) -> None:
  """Writes the matrices of `to_cuda_convnet` as .safetensors, or else as .npz."""
  matrices = to_cuda_convnet(params)
  if path.endswith('.safetensors'):
    archive.write_tensors(path, matrices, {})
    return
  with open(path, 'wb') as file:
    np.savez(file, **matrices)  # type: ignore[arg-type]
