"""Our archive: one .safetensors file with everything that eval, predict and export need of a network.

Its tensors are `params/LAYER/kernel`, `params/LAYER/bias`, `batch_stats/LAYER/mean` and so on, and
`statistics/mean_image`, `statistics/eigenvectors`, `statistics/deviations`, all float32 and in the
layout of `alexnet_jax.models.alexnet`. Its metadata, which the format restricts to strings, are
`format` ("alexnet_jax"), `version` ("1"), `config` (the whole config as JSON), `class_names` and
`class_counts` (JSON lists).
"""

from collections.abc import Mapping
import contextlib
import os
import pathlib
from typing import Any

import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.utils.optional_import import import_module

FORMAT, VERSION = 'alexnet_jax', '1'


def flatten(tree: Mapping, prefix: str = '') -> dict[str, Any]:
  """Turns `{'a': {'b': x}}` into `{'a/b': x}`."""
  flat = {}
  for key, value in tree.items():
    name = f'{prefix}/{key}' if prefix else key
    flat |= flatten(value, name) if isinstance(value, Mapping) else {name: value}
  return flat


def unflatten(flat: Mapping[str, Any]) -> dict:
  """Turns `{'a/b': x}` into `{'a': {'b': x}}`, the inverse of `flatten` except for empty mappings."""
  tree: dict = {}
  for name, value in flat.items():
    *parents, key = name.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[key] = value
  return tree


@contextlib.contextmanager
def _opened(path: str):
  """Opens a .safetensors file.

  Raises:
    UserError: it is missing or damaged, has unknown types, or safetensors is not installed.
  """
  safetensors = import_module('safetensors', 'interop', path)
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      yield file
  except FileNotFoundError:
    raise UserError(f'--weights={path}: there is no such file') from None
  except (safetensors.SafetensorError, OSError, TypeError, ValueError) as error:
    raise UserError(
      f'{path} cannot be read as safetensors ({" ".join(str(error).split())[:200]}): download it again'
    ) from None


def read_tensors(path: str) -> dict[str, np.ndarray]:
  """Reads the tensors of any .safetensors file.

  Raises:
    UserError: the file is missing or damaged, or a tensor has a type that NumPy does not know.
  """
  with _opened(path) as file:
    return {name: file.get_tensor(name) for name in list(file.keys())}


def write_tensors(
  path: str, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
  """Writes a .safetensors file under a temporary name and renames it.

  Raises:
    UserError: safetensors is not installed.
  """
  safetensors = import_module('safetensors.numpy', 'interop', path)
  pathlib.Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
  temporary = f'{path}.{os.getpid()}'
  arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
  # `save_file` would make a file that only its owner may read.
  pathlib.Path(temporary).write_bytes(safetensors.save(arrays, dict(metadata)))
  os.replace(temporary, path)


def read_metadata(path: str) -> dict[str, str]:
  """Reads the metadata of our archive, without its tensors.

  Raises:
    UserError: the file cannot be read, or is not such an archive.
  """
  with _opened(path) as file:
    metadata = file.metadata() or {}
  if (metadata.get('format'), metadata.get('version')) != (FORMAT, VERSION):
    raise UserError(
      f'{path} is not an archive of this project (format {metadata.get("format")}, version '
      f'{metadata.get("version")}): for a state_dict use --format=torchvision or pytorch'
    )
  return metadata
