"""Our archive: one .safetensors file with everything that eval, predict and export need of a network.

Its tensors are `params/LAYER/kernel`, `params/LAYER/bias`, `batch_stats/LAYER/mean` and so on, and
`statistics/mean_image`, `statistics/eigenvectors`, `statistics/deviations`, all float32 and in the
layout of `alexnet_jax.models.alexnet`. Its metadata, which the format restricts to strings, are

- `format` ("alexnet_jax") and `version` ("1");
- `config`, the whole config as JSON;
- `class_names` and `class_counts` (the training images of each class), JSON lists;
- `class_titles`, a JSON list of the names of the classes in words, or null;
- `training`, a JSON object: `step`, `epoch`, `num_train`, `num_validation` and `validation`, the last
  errors that training measured. Files of earlier versions lack this key and `class_titles`.
"""

from collections.abc import Mapping
import contextlib
import json
import os
import pathlib
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from alexnet_jax import config as config_lib
from alexnet_jax import models
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import UserError
from alexnet_jax.utils import atomic_io

FORMAT, VERSION, SUFFIX = 'alexnet_jax', '1', '.safetensors'
_SHOWN = 8  # number of unexpected tensors that an error lists


class Network(NamedTuple):
  """A network with everything that a checkpoint stores about it.

  Attributes:
    params, batch_stats: NumPy arrays in our layout.
    statistics: mean image and colour statistics, for the canvas of the config.
    class_names: in the order of the labels.
    class_counts: number of training images of each class; zeros if unknown.
    class_titles: the names in words, or None.
  """

  params: dict
  batch_stats: dict
  statistics: Statistics
  class_names: list[str]
  class_counts: list[int]
  class_titles: list[str] | None = None


@contextlib.contextmanager
def _opened(path: str):
  """Opens a .safetensors file; raises UserError if it is missing or damaged, or has unknown types."""
  try:
    with safe_open(path, framework='numpy') as file:
      yield file
  except FileNotFoundError:
    raise UserError(f'--weights={path}: there is no such file') from None
  except (SafetensorError, OSError, TypeError, ValueError) as error:
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
  """Writes a .safetensors file under a temporary name and renames it."""
  pathlib.Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
  arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
  # `save_file` would make a file that only its owner may read.
  with atomic_io.replacing(path) as file:
    file.write(save(arrays, dict(metadata)))


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


def has_suffix(path: str | os.PathLike) -> bool:
  """Returns whether a path ends in .safetensors, in small or capital letters."""
  return os.fspath(path).lower().endswith(SUFFIX)


def is_archive(path: str | os.PathLike) -> bool:
  """Returns whether a path names a .safetensors file rather than the folder of a run."""
  return has_suffix(path) and not os.path.isdir(path)


def read_config(path: str | os.PathLike) -> ConfigDict:
  """Reads the config of a trained network: of our archive, or of the run in a workdir.

  Raises:
    UserError: there is no config, or it cannot be read.
  """
  if is_archive(path):
    return config_lib.from_json(read_metadata(os.fspath(path))['config'])
  return config_lib.load_workdir(path)


def read_network(path: str, config: ConfigDict | FrozenConfigDict) -> Network:
  """Reads the network of our archive.

  Args:
    path: the file.
    config: the whole config that the network must fit.

  Raises:
    UserError: the file cannot be read, is not such an archive, or holds another network.
  """
  metadata, tensors = read_metadata(path), read_tensors(path)
  abstract = flatten_dict(models.abstract_variables(config.model), sep='/')
  expected = {name: leaf.shape for name, leaf in abstract.items()}
  size = config.data.canvas.size
  expected['statistics/mean_image'] = (size, size, 3)
  expected |= {'statistics/eigenvectors': (3, 3), 'statistics/deviations': (3,)}
  found = {name: tensor.shape for name, tensor in tensors.items()}
  check_shapes(expected, found, path, f'the network of recipe {config.recipe}')
  tree = unflatten_dict(tensors, sep='/')
  return Network(
    tree['params'],
    tree.get('batch_stats', {}),
    Statistics(**tree['statistics']),
    json.loads(metadata['class_names']),
    json.loads(metadata['class_counts']),
    json.loads(metadata.get('class_titles', 'null')),
  )


def read_facts(path: str) -> dict[str, Any]:
  """Reads everything but the tensors of our archive.

  Returns:
    What `Checkpoints.meta` returns of a checkpoint, as far as the file says it, and `step`.

  Raises:
    UserError: the file cannot be read, or is not such an archive.
  """
  metadata = read_metadata(path)
  unknown = {'step': 0, 'epoch': 0.0, 'num_train': 0, 'num_validation': 0, 'validation': {}}
  return (
    unknown
    | json.loads(metadata.get('training', '{}'))
    | {
      'config': FrozenConfigDict(config_lib.from_json(metadata['config'])),
      'class_names': json.loads(metadata['class_names']),
      'class_counts': json.loads(metadata['class_counts']),
      'class_titles': json.loads(metadata.get('class_titles', 'null')),
    }
  )


def check_shapes(
  expected: Mapping[str, tuple[int, ...]],
  found: Mapping[str, tuple[int, ...]],
  what: str,
  network: str,
) -> None:
  """Checks that a file holds the tensors of a network.

  Args:
    expected: for each tensor's name in the file, the shape that the network needs.
    found: for each tensor's name in the file, its shape.
    what: the file, for the message.
    network: the network, in words.

  Raises:
    UserError: names or shapes differ. The message lists each with the expected and the found shape.
  """
  unexpected = [name for name in found if name not in expected]
  differing = [
    f'{name}: expected {_shape_text(expected.get(name))}, found {_shape_text(found.get(name))}'
    for name in (*expected, *unexpected[:_SHOWN])
    if expected.get(name) != found.get(name)
  ]
  if len(unexpected) > _SHOWN:
    differing.append(f'and {len(unexpected) - _SHOWN} more that are not expected')
  if differing:
    raise UserError(
      f'{what} does not hold {network} ({"; ".join(differing)}): give a file with its weights, or the '
      'config that these weights are for'
    )


def _shape_text(shape: tuple[int, ...] | None) -> str:
  return 'nothing' if shape is None else str(list(shape))
