"""Random keys as a function of (seed, step, row in the global batch, purpose), never of the device.

So a run draws the same numbers on 1, 2, 4 or 8 devices, in one piece or in micro-batches, and a
resumed run draws what the uninterrupted one would have.
"""

import jax

Array = jax.Array

# What a key is for. Append only: the numbers are part of what makes a run repeatable.
INIT, DROPOUT, CROP, FLIP, COLOUR = range(5)


def seed_key(seed: int) -> Array:
  """The root key of a run. Threefry, whatever JAX's default: `rbg` draws depend on the batch."""
  return jax.random.key(seed, impl='threefry2x32')


def step_key(seed_key: Array, step: Array | int, purpose: int) -> Array:
  """The key of one step and purpose."""
  return jax.random.fold_in(jax.random.fold_in(seed_key, step), purpose)


def row_keys(key: Array, rows: Array) -> Array:
  """One key a row, `[B]`, for `rows` int `[B]`, places in the global batch."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
