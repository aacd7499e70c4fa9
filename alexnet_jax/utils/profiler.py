"""Traces a window of training steps with the JAX profiler."""

import pathlib

from absl import logging
import jax

FOLDER = 'profile'


class Window:
  """Traces the steps first..last of a run and writes the trace to WORKDIR/profile.

  Args:
    workdir: folder of the run.
    steps: `config.train.profile`: the first and the last step, counted from 1; (0, 0) traces nothing.
    quiet: traces nothing; with several processes, all but one pass True.
  """

  def __init__(self, workdir: pathlib.Path, steps: tuple[int, int], quiet: bool = False):
    self._folder = workdir / FOLDER
    self._first, self._last = (0, 0) if quiet else steps
    self._running = False

  def at(self, step: int, state: object) -> None:
    """Starts or stops the trace; call it before each step.

    Args:
      step: number of completed steps.
      state: their result, a pytree of arrays.
    """
    if self._running and step >= self._last:
      jax.block_until_ready(state)  # the devices may still be computing the last step
      self.close()
    elif not self._running and self._first <= step + 1 <= self._last:
      jax.block_until_ready(state)
      jax.profiler.start_trace(self._folder)
      self._running = True

  def close(self) -> None:
    """Stops and writes the trace, if one is running."""
    if self._running:
      jax.profiler.stop_trace()
      self._running = False
      logging.info('the trace of steps %d to %d is in %s', self._first, self._last, self._folder)
