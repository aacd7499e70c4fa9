"""A trace of some training steps, by their numbers: what the host and the devices did."""

import pathlib

from absl import logging
import jax

FOLDER = 'profile'


class Window:
  """Traces the steps first..last of a run into WORKDIR/profile.

  Args:
    workdir: of the run.
    steps: `config.train.profile`.
    quiet: traces nothing, as all but one of several processes should.
  """

  def __init__(self, workdir: pathlib.Path, steps: tuple[int, int], quiet: bool = False):
    self._folder = workdir / FOLDER
    self._first, self._last = (0, 0) if quiet else steps
    self._running = False

  def at(self, step: int, state: object) -> None:
    """Starts or stops the trace; called with the steps done and their result before each step."""
    if self._running and step >= self._last:
      jax.block_until_ready(state)  # or the trace would end before what it is to show
      self.close()
    elif not self._running and self._first <= step + 1 <= self._last:
      jax.block_until_ready(state)
      jax.profiler.start_trace(self._folder)
      self._running = True

  def close(self) -> None:
    """Ends and writes the trace, if one is running."""
    if self._running:
      jax.profiler.stop_trace()
      self._running = False
      logging.info('steps %d to %d are traced in %s', self._first, self._last, self._folder)
