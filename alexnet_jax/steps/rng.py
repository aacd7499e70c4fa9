"""Random keys that depend on seed, step, row of the global batch and purpose, and never on the device.

A run therefore draws the same numbers on 1, 2, 4 or 8 devices, with and without micro-batches, and a resumed
run draws the same numbers as an uninterrupted one.
"""

import jax
import numpy as np

Array = jax.Array

# Purposes of keys. Existing numbers must not change, because they determine the draws of every run.
INIT, DROPOUT, CROP, FLIP, COLOUR, MIXUP = range(6)


def seed_key(seed: int) -> Array:
  """Returns the root key of a run.

  It is always a Threefry key, whatever JAX's default, because draws from `rbg` keys depend on the batch size.
  JAX uses the lower 32 bits of a seed. The upper ones are folded in unless they are 0.
  """
  high, low = divmod(seed % 2**64, 2**32)
  key = jax.random.key(np.uint32(low), impl='threefry2x32')
  return jax.random.fold_in(key, np.uint32(high)) if high else key


def step_key(seed_key: Array, step: Array | int, purpose: int) -> Array:
  """Returns the key of one step (a number or an int32 scalar) and one purpose (`INIT`, `DROPOUT`, ...)."""
  return jax.random.fold_in(jax.random.fold_in(seed_key, step), purpose)
