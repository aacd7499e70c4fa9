"""Our archive: one .safetensors file with all that eval, predict and export need of a network.

Tensors are named `params/LAYER/kernel`, `params/LAYER/bias`, `batch_stats/LAYER/mean`, ... and
`statistics/mean_image`, `statistics/eigenvectors`, `statistics/deviations`, all float32 and in the
layout of `alexnet_jax.models.alexnet`. The metadata, strings as the format wants it, are `format`
("alexnet_jax"), `version` ("1"), `config` (the whole config as JSON), `class_names` and `class_counts`
(JSON lists).
"""

from collections.abc import Mapping
import os
import pathlib

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from alexnet_jax.errors import UserError

FORMAT, VERSION = 'alexnet_jax', '1'


def flatten(tree: Mapping, prefix: str = '') -> dict[str, np.ndarray]:
  """`{'a': {'b': x}}` -> `{'a/b': x}`."""
  flat = {}
  for key, value in tree.items():
    name = f'{prefix}/{key}' if prefix else key
    flat |= flatten(value, name) if isinstance(value, Mapping) else {name: np.asarray(value)}
  return flat


def unflatten(flat: Mapping[str, np.ndarray]) -> dict:
  """The inverse of `flatten`, but for rooms with nothing in them."""
  tree: dict = {}
  for name, value in flat.items():
    *rooms, key = name.split('/')
    room = tree
    for part in rooms:
      room = room.setdefault(part, {})
    room[key] = value
  return tree


def read_tensors(path: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Tensors and metadata of any .safetensors file.

  Raises:
    UserError: it is missing, damaged, or of a type that NumPy does not know.
  """
  try:
    with safe_open(path, framework='numpy') as file:
      return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
  except FileNotFoundError:
    raise UserError(f'--weights={path}: there is no such file') from None
  except (SafetensorError, OSError, TypeError, ValueError) as error:
    raise UserError(
      f'{path} cannot be read as safetensors ({" ".join(str(error).split())[:200]}): fetch it again'
    ) from None


def write_tensors(
  path: str, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
  """Writes a .safetensors file under a temporary name and renames it."""
  pathlib.Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
  temporary = f'{path}.{os.getpid()}'
  arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
  save_file(arrays, temporary, dict(metadata))
  os.replace(temporary, path)
