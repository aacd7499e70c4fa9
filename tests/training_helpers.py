"""Helpers for tests of training runs."""

import contextlib

import jax
from ml_collections import FrozenConfigDict

from alexnet_jax import config as config_lib
from alexnet_jax import steps
from alexnet_jax.data import open_dataset
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.training.preemption import StopSignal
from alexnet_jax.training.run import Run, resolve
from alexnet_jax.workdir.checkpoint import Checkpoints


def final_state(config, workdir):
  """Returns the train state of the newest checkpoint, on the host."""
  config = FrozenConfigDict(config_lib.load_workdir(workdir))
  mesh = mesh_lib.make_mesh(config)
  with Checkpoints(workdir, read_only=True) as checkpoints:
    state = checkpoints.restore(checkpoints.latest(), steps.abstract_state(config, mesh))
  return jax.device_get(state)


@contextlib.contextmanager
def open_run(config, workdir):
  """Yields a `Run` on 40 synthetic images, so that an epoch has 5 steps with batches of 8."""
  with (
    contextlib.closing(open_dataset(config.data, config.seed)) as dataset,
    Checkpoints(workdir) as checkpoints,
  ):
    config = resolve(config, dataset)
    dataset.preload()
    yield Run(config, workdir, dataset, mesh_lib.make_mesh(config), checkpoints, StopSignal())
