"""Small configs, and weights large enough that every setting of the network affects its output."""

import contextlib
import functools
import json
import math
import pathlib

from flax.traverse_util import flatten_dict
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np

from alexnet_jax import config as config_lib
from alexnet_jax import models
from alexnet_jax.cli import main as main_lib
from alexnet_jax.config import recipes
from alexnet_jax.data import open_dataset
from alexnet_jax.interop import importer
from alexnet_jax.workdir import archive

# In grey levels. Photographs less their mean have about this standard deviation.
PIXEL_DEVIATION = 60.0
# With these factors the activations of conv1 and conv2 reach some hundred grey levels, as in trained
# networks. With the initial weights of a recipe, local response normalisation (LRN) over one tower and over
# all maps would differ only by 2e-7 (docs/FACTS.md section 9). The logits are a few units, so that the
# softmax does not saturate.
GAINS = {'conv1': 5.0, 'conv2': 6.0, 'fc8': 0.05}
BIAS_DEVIATIONS = {'conv1': 40.0, 'conv2': 40.0, 'fc8': 0.2}


def get(variant: str = 'paper', **overrides) -> ConfigDict:
  """Returns a recipe with overrides; `__` stands for a dot: `get('paper', model__width=0.5)`."""
  return recipes.apply(
    recipes.get(variant), {key.replace('__', '.'): value for key, value in overrides.items()}
  )


def narrow(variant: str = 'paper', width: float = 1 / 8, **overrides) -> FrozenConfigDict:
  """Returns `config.model` of a recipe with fewer maps and 10 classes."""
  changes = {f'model__{key}': value for key, value in overrides.items()}
  config = get(variant, **{'model__width': width, 'model__num_classes': 10, **changes})
  return FrozenConfigDict(config.model)


def shapes(model: FrozenConfigDict) -> dict:
  """Returns the variables of a network as ShapeDtypeStructs without computing them."""
  image = jax.ShapeDtypeStruct((1, model.input_size, model.input_size, 3), jnp.float32)
  return jax.eval_shape(models.create(model).init, jax.random.key(0), image)


def visible_params(model: FrozenConfigDict, seed: int = 0) -> dict:
  """Returns float32 NumPy weights that are large enough for LRN to matter, and different biases."""
  rng = np.random.default_rng(seed)

  def draw(layer, name, shape):
    if name == 'kernel':
      deviation = GAINS.get(layer, 1.5) / math.sqrt(math.prod(shape[1:-1]))
    else:
      deviation = BIAS_DEVIATIONS.get(layer, 5.0)
    return rng.normal(0, deviation, shape).astype(np.float32)

  return {
    layer: {name: draw(layer, name, leaf.shape) for name, leaf in sorted(leaves.items())}
    for layer, leaves in sorted(shapes(model)['params'].items())
  }


def images(model: FrozenConfigDict, batch: int = 2, seed: int = 1) -> np.ndarray:
  """Returns preprocessed images, float32 `[B, S, S, 3]`."""
  rng = np.random.default_rng(seed)
  shape = (batch, model.input_size, model.input_size, 3)
  return rng.normal(0, PIXEL_DEVIATION, shape).astype(np.float32)


def relative_error(actual, expected) -> float:
  """Returns the largest difference divided by the largest magnitude in `expected`."""
  actual, expected = (np.asarray(x, np.float64) for x in (actual, expected))
  assert actual.shape == expected.shape
  return np.abs(actual - expected).max() / np.abs(expected).max()


def untrained_run(config: ConfigDict, workdir: pathlib.Path) -> None:
  """Writes a workdir as training would, from random weights and a random mean image.

  It imports an archive. The source that `config` names provides the class names.
  """
  with contextlib.closing(open_dataset(config.data, config.seed)) as dataset:
    names = dataset.class_names
  config.model.num_classes = len(names)
  rng = np.random.default_rng(3)
  size = config.data.canvas.size
  model = FrozenConfigDict(config.model)
  moments = shapes(model).get('batch_stats', {})
  tree = {
    'params': visible_params(model),
    'batch_stats': jax.tree.map(
      lambda leaf: rng.uniform(0.5, 2, leaf.shape).astype(np.float32), moments
    ),
    'statistics': {
      'mean_image': rng.uniform(90, 130, (size, size, 3)).astype(np.float32),
      'eigenvectors': np.eye(3, dtype=np.float32),
      'deviations': np.ones(3, np.float32),
    },
  }
  metadata = {
    'format': 'alexnet_jax',
    'version': '1',
    'config': config_lib.to_json(config),
    'class_names': json.dumps(list(names)),
    'class_counts': json.dumps([1] * len(names)),
  }
  workdir.mkdir(parents=True, exist_ok=True)
  path = workdir / 'weights.safetensors'
  archive.write_tensors(str(path), flatten_dict(tree, sep='/'), metadata)
  importer.import_network(config, str(workdir), 'safetensors', str(path))


def run(capsys, *args: object) -> dict:
  """Runs a command in this process and returns its JSON output."""
  capsys.readouterr()
  assert main_lib.main([str(arg) for arg in args]) == 0
  return json.loads(capsys.readouterr().out)


@functools.cache
def forward(model: FrozenConfigDict, capture: bool = False):
  """Returns the compiled network at test time, `f(params, images)`; `capture` adds the layers' outputs."""
  module = models.create(model)
  options = {'capture_intermediates': True, 'mutable': ['intermediates']} if capture else {}
  return jax.jit(lambda params, x: module.apply({'params': params}, x, **options))


def layer_outputs(model: FrozenConfigDict, params: dict, x: np.ndarray) -> dict:
  """Returns the outputs of all layers and operations: `{'conv1': [tower 0, tower 1], ...}`."""
  _, state = forward(model, capture=True)(params, x)
  outputs = state['intermediates']
  return {
    name: (out['__call__'] if isinstance(out, dict) else out)[0]
    for name, out in outputs.items()
    if name != '__call__'
  }
