"""Random keys differ for each seed, step, purpose and row, and do not depend on the batch."""

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.models import operations
from alexnet_jax.steps import rng


def data(key):
  return np.asarray(jax.random.key_data(key)).tobytes()


def test_keys_differ_by_seed_step_and_purpose():
  purposes = (rng.INIT, rng.DROPOUT, rng.CROP, rng.FLIP, rng.COLOUR, rng.MIXUP)
  assert purposes == tuple(range(6))  # other numbers would change the draws of earlier runs
  keys = {
    data(rng.step_key(rng.seed_key(seed), step, purpose))
    for seed in range(3)
    for step in range(3)
    for purpose in purposes
  }
  assert len(keys) == 3 * 3 * len(purposes)


def test_all_64_bits_of_a_seed_count():
  """JAX alone drops the upper 32 bits. The key of a smaller seed is that of JAX."""
  seeds = (0, 5, 2**32 - 1, -1, 2**32, 2**32 + 5, -(2**32), 2**63 - 1, 1 - 2**63)
  assert len({data(rng.seed_key(seed)) for seed in seeds}) == len(seeds)
  for seed in (0, 5, 2**31 - 1, 2**31, 2**32 - 1):
    assert data(rng.seed_key(seed)) == data(jax.random.key(seed, impl='threefry2x32'))


def test_a_row_has_the_same_key_in_every_batch():
  key = rng.step_key(rng.seed_key(0), 5, rng.CROP)
  keys = jax.random.key_data(operations.row_keys(key, jnp.arange(8)))
  assert len(np.unique(keys, axis=0)) == 8
  some = jax.random.key_data(operations.row_keys(key, jnp.array([6, 1])))
  np.testing.assert_array_equal(some, keys[jnp.array([6, 1])])


def test_keys_use_threefry_for_any_default():
  with jax.default_prng_impl('rbg'):
    key = rng.seed_key(3)
  assert str(jax.random.key_impl(key)) == 'threefry2x32'
