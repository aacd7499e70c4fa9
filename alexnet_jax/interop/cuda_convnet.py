"""cuda-convnet: the matrices of the original 2012 network, to and from our parameters (recipe `original`).

The code published in 2012 contains no trained weights, and the checkpoints of cuda-convnet are pickles, which
are not read here. This module reads an .npz or .safetensors file with the matrices of such a checkpoint:

- `LAYER/weights/I`: the matrix for the I-th layer that feeds LAYER; tower a comes before tower b. It is
  `[C * kH * kW, filters]` for a convolution and `[inputs, outputs]` for a fully connected layer. The inputs
  of fc2048a and fc2048b are maps flattened as (C, H, W).
- `LAYER/biases`: `[filters]`, or, as in cuda-convnet, with an additional dimension of size one.

The layers are those of net 145, the network of the paper: conv1a, conv1b ... conv5b; fc2048a, fc2048b;
fc2048ba, fc2048bb; fc1000. conv3 and the fully connected layers read both towers, the others only their own.
Channels are RGB; labels are in the order of the ImageNet development kit. Source: docs/FACTS.md, sections
1.1, 1.2, 3.
"""

from collections.abc import Mapping
import zipfile

from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np

from alexnet_jax.config import recipes
from alexnet_jax.errors import UserError
from alexnet_jax.interop import layout
from alexnet_jax.workdir import archive

_TOWERS = 2
_LAYERS = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7', 'fc8')
_DENSE = {'fc6': ('fc2048a', 'fc2048b'), 'fc7': ('fc2048ba', 'fc2048bb'), 'fc8': ('fc1000',)}


def _names(layer: str) -> tuple[str, ...]:
  """Returns the names that net 145 gives to a layer: one for each tower, or one for the last layer."""
  return _DENSE.get(layer, (f'{layer}a', f'{layer}b'))


def to_cuda_convnet(params: Mapping) -> dict[str, np.ndarray]:
  """Converts our parameters to the matrices of net 145.

  Args:
    params: parameters of recipe `original`, of any width.

  Returns:
    float32 NumPy arrays by name.
  """
  matrices = {}
  for layer, arrays in layout.to_planar(params, _LAYERS).items():
    weight, names = arrays['weight'], _names(layer)
    for name, part, bias in zip(
      names, np.split(weight, len(names)), np.split(arrays['bias'], len(names)), strict=True
    ):
      # A layer that reads both towers has one matrix for each of them.
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
  """Converts the matrices of net 145 to our parameters; the exact inverse of `to_cuda_convnet`.

  Args:
    matrices: by name, as the docstring of this module says.
    model: `config.model`; by default that of recipe `original`. With `num_classes` 0 the number of classes is
      that of the matrices.
    what: the name of the file, for messages.

  Returns:
    float32 NumPy arrays, `params[layer]['kernel' | 'bias']`.

  Raises:
    UserError: names or shapes differ from those of the network. The message lists them.
  """
  model = ConfigDict((model or recipes.get('original').model).to_dict())
  layout.check_same_function(model, recipes.get('original').model, what)
  found = {name: np.asarray(x, np.float32) for name, x in matrices.items()}
  found = {name: x.reshape(-1) if name.endswith('/biases') else x for name, x in found.items()}
  if not model.num_classes and found.get('fc1000/biases', np.zeros(0)).size > 1:
    model.num_classes = found['fc1000/biases'].size
  shapes = layout.planar_shapes(model)
  expected = _expected_shapes(shapes, model)
  network = f'the matrices of net 145 of {model.num_classes or 1000} classes'
  archive.check_shapes(expected, {name: x.shape for name, x in found.items()}, what, network)
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
  return layout.from_planar(planar, model)


def _expected_shapes(shapes: Mapping, model: ConfigDict) -> dict[str, tuple[int, ...]]:
  """Returns the shapes of all matrices of the network of `model`, given `layout.planar_shapes` of it."""
  zeros = {
    layer: {name: np.broadcast_to(np.float32(0), shape) for name, shape in arrays.items()}
    for layer, arrays in shapes.items()
  }
  matrices = to_cuda_convnet(layout.from_planar(zeros, model))
  return {name: x.shape for name, x in matrices.items()}


def read(path: str) -> dict[str, np.ndarray]:
  """Reads the arrays of an .npz or .safetensors file; pickled objects are refused.

  Raises:
    UserError: the file is missing or damaged, or holds pickled objects.
  """
  if archive.has_suffix(path):
    return archive.read_tensors(path)
  try:
    with np.load(path, allow_pickle=False) as file:
      return {name: file[name] for name in file.files}
  except FileNotFoundError:
    raise UserError(f'--weights={path}: there is no such file') from None
  except (TypeError, ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
    raise UserError(
      f'{path} is not an .npz file of plain arrays ({" ".join(str(error).split())[:120]}): '
      'write one with np.savez, or a .safetensors file'
    ) from None


def write(path: str, params: Mapping) -> None:
  """Writes the matrices of `to_cuda_convnet` as .safetensors if the path ends so, else as .npz."""
  matrices = to_cuda_convnet(params)
  if archive.has_suffix(path):
    archive.write_tensors(path, matrices, {})
    return
  with open(path, 'wb') as file:
    np.savez(file, **matrices)  # type: ignore[arg-type]
