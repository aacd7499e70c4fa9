"""Losses of steps that the devices may still be computing."""

from collections import deque
import math

import jax


class NonFiniteError(Exception):
  """The loss, or a number of the train state, is not finite after step `step`."""

  def __init__(self, step: int):
    super().__init__(f'step {step}')
    self.step = step


class PendingLosses:
  """A queue of losses; bounds the number of unfinished steps and checks each loss when it arrives."""

  def __init__(self):
    self._losses = deque[tuple[int, jax.Array]]()

  def add(self, step: int, loss: jax.Array) -> None:
    """Appends the loss of step `step`, which need not be complete."""
    self._losses.append((step, loss))

  def wait(self, at_most: int) -> None:
    """Blocks until at most `at_most` steps are unfinished.

    Raises:
      NonFiniteError: a loss that has arrived is not finite.
    """
    while len(self._losses) > at_most:
      step, loss = self._losses.popleft()
      if not math.isfinite(float(loss)):
        raise NonFiniteError(step)
