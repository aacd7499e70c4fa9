"""`--dry_run` predicts the numbers of a run without training."""

import jax
from ml_collections import FrozenConfigDict
import pytest
from tiny import tiny_config

from alexnet_jax import steps
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.distributed import sharding
from alexnet_jax.errors import UserError
from alexnet_jax.training.dry_run import dry_run


@pytest.mark.parametrize('mesh', [(1, 1), (2, 2)])
def test_a_dry_run_predicts_the_numbers_of_the_run(mesh):
  few = {'model__layers': ('conv1', 'fc6', 'fc8')}
  config = tiny_config(train__epochs=3.0, mesh=mesh, **few)
  found = dry_run(config)
  assert (found['steps'], found['epochs']) == (15, 3.0)
  assert (found['train_images'], found['validation_images'], found['classes']) == (40, 18, 4)
  assert found['mesh'] == list(mesh)
  config.model.num_classes = 4
  config = FrozenConfigDict(config)
  state = steps.init_state(config, mesh_lib.make_mesh(config))
  assert found['parameters'] == sum(leaf.size for leaf in jax.tree.leaves(state.params))
  assert found['bytes_per_device'] > sharding.bytes_per_device(state)[0]
  assert found['training_s'] == pytest.approx(15 * found['step_s'], abs=0.51)


def test_an_invalid_config_is_refused():
  with pytest.raises(UserError, match='num_classes=7'):
    dry_run(tiny_config(model__num_classes=7))
  with pytest.raises(UserError, match='needs a network to copy from'):
    dry_run(tiny_config(init_layers='conv1'))
  with pytest.raises(UserError, match='there is no such folder'):
    dry_run(tiny_config(init_from='none', model__layers=('conv1', 'fc6', 'fc8')))
