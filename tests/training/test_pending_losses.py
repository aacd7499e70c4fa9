"""The queue of losses has a bound, keeps the order and detects non-finite numbers."""

import jax.numpy as jnp
import pytest

from alexnet_jax.training.pending_losses import NonFiniteError, PendingLosses


def test_a_loss_is_checked_when_it_leaves_the_queue():
  pending = PendingLosses()
  for step, loss in enumerate([1.0, 2.0, jnp.nan, jnp.inf], 1):
    pending.add(step, jnp.float32(loss))
  pending.wait(2)
  with pytest.raises(NonFiniteError) as error:
    pending.wait(1)
  assert error.value.step == 3


def test_an_empty_queue_waits_for_nothing():
  PendingLosses().wait(0)
