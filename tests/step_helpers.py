"""Inputs for a training step of a small network, for tests of steps on any mesh."""

from helpers import get, visible_params
import jax
from ml_collections import FrozenConfigDict
import numpy as np

from alexnet_jax import steps
from alexnet_jax.data.statistics import Statistics

BATCH = 8
SIZE, CANVAS = 99, 104


def configure(variant, mesh, **overrides):
  """Returns the config of a narrow network with dropout and augmentation, and without weight decay."""
  return FrozenConfigDict(
    get(
      variant,
      mesh=mesh,
      model__width=1 / 8,
      model__num_classes=10,
      model__input_size=SIZE,
      data__canvas__size=CANVAS,
      train__batch_size=BATCH,
      optim__decay=0.0,
      **overrides,
    )
  )


def inputs(seed=0):
  """Returns a batch of smooth canvases, one of which is masked out, and the statistics."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (BATCH, CANVAS // 8, CANVAS // 8, 3), np.uint8)
  mask = np.ones(BATCH, bool)
  mask[5] = False
  batch = {
    'image': coarse.repeat(8, 1).repeat(8, 2),
    'label': rng.integers(0, 10, BATCH).astype(np.int32),
    'mask': mask,
    'index': np.arange(BATCH, dtype=np.int32),
  }
  mean = rng.uniform(100, 150, (CANVAS, CANVAS, 3)).astype(np.float32)
  vectors = np.linalg.qr(rng.normal(size=(3, 3)))[0].astype(np.float32)
  return batch, Statistics(mean, vectors, np.array([20, 37, 122], np.float32))


def visible_state(config, mesh):
  """Returns a train state with weights large enough that every setting affects the step."""
  params = visible_params(config.model)

  def put(path, leaf):
    names = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
    is_param = isinstance(path[0], jax.tree_util.GetAttrKey) and path[0].name == 'params'
    value = params[names[0]][names[1]] if is_param else np.zeros(leaf.shape, leaf.dtype)
    return jax.device_put(value, leaf.sharding)

  return jax.tree.map_with_path(put, steps.abstract_state(config, mesh))
