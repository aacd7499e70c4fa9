"""The JSON file beside exported weights: everything about the network that its format cannot hold.

A state_dict or a set of matrices says nothing about the config, the classes or the mean image. An
export in such a format therefore writes WEIGHTS.json beside WEIGHTS, and an import of the same weights
reads it. Its keys:

- `format` ("alexnet_jax weights"), `version` (1), `weights_sha256` (of the file that it describes);
- `config`, the whole config, and `checkpoint`, the step of the exported checkpoint;
- `class_names` in the order of the labels, and `class_counts` of the training images (zeros if unknown);
- `input`: `channels` ("rgb"), `size` in pixels, `mean` (the channel means of what is subtracted) and `std`,
  in grey levels, and `gray`, whether the mean of the channels is the input; for readers who need no more;
- `statistics`: `mean_image` (shape and base64 of little-endian float32), `eigenvectors` and `deviations`.
"""

import base64
import hashlib
import json
import pathlib
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict
import numpy as np

from alexnet_jax import config as config_lib
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation.loading import Trained

FORMAT, VERSION = 'alexnet_jax weights', 1


class Sidecar(NamedTuple):
  """The content of a sidecar.

  Attributes:
    config: the whole config of the exported network.
    class_names: in the order of the labels.
    class_counts: number of training images of each class; zeros if unknown.
    statistics: of the training images; float32 NumPy arrays.
  """

  config: ConfigDict
  class_names: list[str]
  class_counts: list[int]
  statistics: Statistics


def path_of(weights: str) -> pathlib.Path:
  """Returns where the sidecar of a file of weights is."""
  return pathlib.Path(f'{weights}.json')


def may_replace(path: pathlib.Path) -> bool:
  """Returns whether there is no file, or a sidecar or description of a program, which an export wrote."""
  if not path.exists():
    return True
  try:
    content = json.loads(path.read_text())
  except (OSError, ValueError):
    return False
  if not isinstance(content, dict):
    return False
  return content.get('format') == FORMAT or content.keys() >= {'canvas', 'views', 'checkpoint'}


def write(trained: Trained, weights: str, config: ConfigDict) -> str:
  """Writes the sidecar of exported weights.

  Args:
    trained: the network.
    weights: the file that holds its parameters.
    config: the config to write.

  Returns:
    The path of the sidecar.

  Raises:
    UserError: the file of weights cannot be read.
  """
  statistics = jax.device_get(trained.statistics)
  mean_image = np.asarray(statistics.mean_image, '<f4')
  is_subtracted = trained.config.augment.mean != 'none'
  content = {
    'format': FORMAT,
    'version': VERSION,
    'weights_sha256': _sha256(weights),
    'checkpoint': trained.step,
    'input': {
      'channels': 'rgb',
      'size': trained.config.model.input_size,
      'mean': (is_subtracted * mean_image.mean((0, 1), np.float64)).round(3).tolist(),
      'std': list(trained.config.augment.std),
      'gray': trained.config.model.gray,
    },
    'class_names': list(trained.meta['class_names']),
    'class_counts': [int(count) for count in trained.meta['class_counts']],
    'config': json.loads(config_lib.to_json(config)),
    'statistics': {
      'eigenvectors': np.asarray(statistics.eigenvectors, np.float32).tolist(),
      'deviations': np.asarray(statistics.deviations, np.float32).tolist(),
      'mean_image': {
        'shape': list(mean_image.shape),
        'float32_base64': base64.b64encode(mean_image.tobytes()).decode(),
      },
    },
  }
  path = path_of(weights)
  path.write_text(json.dumps(content, indent=2) + '\n')
  return str(path)


def read(weights: str) -> Sidecar | None:
  """Reads the sidecar of a file of weights.

  Returns:
    None if the file has no sidecar.

  Raises:
    UserError: the sidecar is damaged, or describes other weights.
  """
  path = path_of(weights)
  if not path.is_file():
    return None
  try:
    content = json.loads(path.read_text())
    if (content['format'], content['version']) != (FORMAT, VERSION):
      raise ValueError(f'its format is {content["format"]!r}, version {content["version"]!r}')
    sidecar = Sidecar(
      config_lib.from_json(json.dumps(content['config'])),
      [str(name) for name in content['class_names']],
      [int(count) for count in content['class_counts']],
      _statistics(content['statistics']),
    )
    sha256 = content['weights_sha256']
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(
      f'{path} cannot be read as the description of {weights} ({error!r}): export again, or move it away'
    ) from None
  if sha256 != _sha256(weights):
    raise UserError(
      f'{path} describes other weights than {weights} holds: export again, or move it away'
    )
  return sidecar


def _statistics(content: dict[str, Any]) -> Statistics:
  mean = content['mean_image']
  mean_image = np.frombuffer(base64.b64decode(mean['float32_base64'], validate=True), '<f4')
  return Statistics(
    mean_image.reshape(mean['shape']).astype(np.float32),
    np.asarray(content['eigenvectors'], np.float32).reshape(3, 3),
    np.asarray(content['deviations'], np.float32).reshape(3),
  )


def _sha256(path: str) -> str:
  try:
    with open(path, 'rb') as file:
      return hashlib.file_digest(file, 'sha256').hexdigest()
  except OSError as error:
    raise UserError(f'--weights={path} cannot be read ({error.strerror})') from None
