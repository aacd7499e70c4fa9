"""Our archive: one .safetensors file with all that eval, predict and export need of a network.

Tensors are named `params/LAYER/kernel`, `params/LAYER/bias`, `batch_stats/LAYER/mean`, ... and
`statistics/mean_image`, `statistics/eigenvectors`, `statistics/deviations`, all float32 and in the
layout of `alexnet_jax.models.alexnet`. The metadata, strings as the format wants it, are `format`
("alexnet_jax"), `version` ("1"), `config` (the whole config as JSON), `class_names` and `class_counts`
(JSON lists).
"""

from collections.abc import Mapping
import contextlib
import os
import pathlib
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from alexnet_jax.errors import UserError

FORMAT, VERSION = 'alexnet_jax', '1'


def flatten(tree: Mapping, prefix: str = '') -> dict[str, Any]:
  """`{'a': {'b': x}}` -> `{'a/b': x}`."""
  flat = {}
  for key, value in tree.items():
    name = f'{prefix}/{key}' if prefix else key
    flat |= flatten(value, name) if isinstance(value, Mapping) else {name: value}
  return flat


def unflatten(flat: Mapping[str, Any]) -> dict:
  """The inverse of `flatten`, but for rooms with nothing in them."""
  tree: dict = {}
  for name, value in flat.items():
    *rooms, key = name.split('/')
    room = tree
    for part in rooms:
      room = room.setdefault(part, {})
    room[key] = value
  return tree


@contextlib.contextmanager
def _opened(path: str):
  """A .safetensors file, opened; raises UserError where it is missing, damaged or of an unknown type."""
  try:
    with safe_open(path, framework='numpy') as file:
      yield file
  except FileNotFoundError:
    raise UserError(f'--weights={path}: there is no such file') from None
  except (SafetensorError, OSError, TypeError, ValueError) as error:
    raise UserError(
      f'{path} cannot be read as safetensors ({" ".join(str(error).split())[:200]}): fetch it again'
    ) from None


def read_tensors(path: str) -> dict[str, np.ndarray]:
  """The tensors of any .safetensors file.

  Raises:
    UserError: it is missing, damaged, or of a type that NumPy does not know.
  """
  with _opened(path) as file:
    return {name: file.get_tensor(name) for name in list(file.keys())}


def write_tensors(
  path: str, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
  """Writes a .safetensors file under a temporary name and renames it."""
  pathlib.Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
  temporary = f'{path}.{os.getpid()}'
  arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
  # Not save_file, whose files nobody else may read.
  pathlib.Path(temporary).write_bytes(save(arrays, dict(metadata)))
  os.replace(temporary, path)


def read_metadata(path: str) -> dict[str, str]:
  """The metadata of our archive; reads no tensors.

  Raises:
    UserError: the file cannot be read, or is no archive of ours.
  """
  with _opened(path) as file:
    metadata = file.metadata() or {}
  if (metadata.get('format'), metadata.get('version')) != (FORMAT, VERSION):
    raise UserError(
      f'{path} is no archive of this project (format {metadata.get("format")}, version '
      f'{metadata.get("version")}): for a state_dict use --format=torchvision or pytorch'
    )
  return metadata
