"""The initial train state, which is equal on every mesh, and the check for non-finite numbers."""

import chex
import jax
import jax.numpy as jnp
import pytest
from step_helpers import configure

from alexnet_jax import steps
from alexnet_jax.distributed import mesh as mesh_lib


@pytest.mark.parametrize('mesh_shape', [(2, 1), (2, 2)])
def test_initial_numbers_do_not_depend_on_the_mesh(mesh_shape):
  """The step and the running sums start at zero, and the moving average at the parameters if there is one."""
  few = {'model__layers': ('conv1', 'conv3', 'fc6', 'fc8')}
  one = configure('paper', (1, 1), optim__ema=0.9, **few)
  many = configure('paper', mesh_shape, optim__ema=0.9, **few)
  expected = steps.init_state(one, mesh_lib.make_mesh(one))
  found = steps.init_state(many, mesh_lib.make_mesh(many))
  chex.assert_trees_all_equal(jax.device_get(found), jax.device_get(expected))
  assert int(found.step) == 0
  assert {name: float(value) for name, value in found.sums.items()} == {
    'loss': 0, 'steps': 0, 'correct': 0, 'examples': 0,
  }  # fmt: skip
  chex.assert_trees_all_equal(jax.device_get(found.ema), jax.device_get(found.params))
  plain = configure('paper', (1, 1), **few)
  assert steps.abstract_state(plain, mesh_lib.make_mesh(plain)).ema == {}
  abstract = steps.abstract_state(many, mesh_lib.make_mesh(many))
  chex.assert_trees_all_equal_shapes_and_dtypes(found, abstract)
  assert jax.tree.map(lambda leaf: leaf.sharding, found) == jax.tree.map(
    lambda leaf: leaf.sharding, abstract
  )


def test_all_finite_detects_nan_and_infinity():
  tree = {'a': jnp.ones(3), 'b': [jnp.zeros((2, 2))]}
  assert steps.all_finite(tree)
  for bad in (jnp.nan, jnp.inf):
    assert not steps.all_finite(tree | {'a': jnp.ones(3).at[1].set(bad)})
