"""What the tests of training runs share."""

import jax

from alexnet_jax import config as config_lib
from alexnet_jax import steps
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.training import loop as train_lib
from alexnet_jax.workdir.checkpoint import Checkpoints


def final_state(config, workdir):
  """The train state of the newest checkpoint, on the host."""
  config = train_lib.FrozenConfigDict(config_lib.load_workdir(workdir))
  mesh = mesh_lib.make_mesh(config)
  with Checkpoints(workdir, read_only=True) as checkpoints:
    state = checkpoints.restore(checkpoints.latest(), steps.abstract_state(config, mesh))
  return jax.device_get(state)
