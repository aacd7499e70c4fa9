"""Handling of SIGTERM: stop soon and lose no finished step.

A scheduler that takes a machine away usually sends SIGTERM half a minute before. Before the first training
step (while data are read, a checkpoint is restored or the step is compiled) there is nothing to save, so the
process exits at once, even if Python's main thread is inside the compiler and could not run a signal handler.
After the first step the signal is only recorded, and the training loop stops after the current step, or
between two batches of an evaluation.
"""

import contextlib
import itertools
import os
import signal
import threading

import jax
from jax.experimental import multihost_utils

_EXIT_CODE = 75
_MESSAGE = (
  b'stopped by SIGTERM before there was anything new to save: the same command resumes the run\n'
)


class StopSignal:
  """Records SIGTERM; use as a context manager in the main thread.

  Several processes all stop after the same step, whichever of them received the signal: `jax.distributed`
  installs its own handler and a protocol to agree on a step. In any thread but the main one, SIGTERM is not
  handled.
  """

  # Numbers the calls of `requested_after_step` of this process. The number of the step would not do: if the
  # signal arrives before the first call, JAX stops all processes at number 1, and a resumed run begins later.
  _calls = itertools.count(1)

  def __init__(self):
    self._multiprocess = jax.process_count() > 1
    self._received = False
    self._deferred = False
    self._lock = threading.Lock()
    self._stack = contextlib.ExitStack()

  def __enter__(self):
    if self._multiprocess or threading.current_thread() is not threading.main_thread():
      return self
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    previous_handler = signal.signal(signal.SIGTERM, lambda *_: None)
    # The C signal handler writes the signal's number to the pipe at once, whatever Python is doing.
    previous_fd = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    watcher = threading.Thread(target=self._watch, args=(read_end,), name='sigterm', daemon=True)
    watcher.start()

    def restore():
      signal.set_wakeup_fd(previous_fd)
      signal.signal(signal.SIGTERM, previous_handler)
      os.close(write_end)  # the watcher reads the end of the file and returns
      watcher.join()
      os.close(read_end)

    self._stack.callback(restore)
    return self

  def __exit__(self, *_):
    self._stack.close()

  def defer_stop(self) -> None:
    """Lets SIGTERM only be recorded from now on, because there are steps to save."""
    with self._lock:
      self._deferred = True

  def stop_at_once(self) -> None:
    """Lets SIGTERM end the process at once from now on, as before the first step."""
    with self._lock:
      self._deferred = False
      if self._received:
        _stop_now()

  def requested_after_step(self) -> bool:
    """Returns whether to stop after the step that has ended.

    All processes must call this after every step. They get the same answer.
    """
    if self._multiprocess:
      return multihost_utils.reached_preemption_sync_point(next(self._calls))
    return self._received

  def requested(self) -> bool:
    """Returns whether to stop within a step, as during an evaluation; always False with several processes."""
    return self._received

  def _watch(self, read_end: int) -> None:
    """Runs in a thread: reads the numbers of the signals from the pipe."""
    while numbers := os.read(read_end, 64):
      if signal.SIGTERM not in numbers:
        continue
      with self._lock:
        self._received = True
        if not self._deferred:
          _stop_now()


def _stop_now() -> None:
  os.write(2, _MESSAGE)
  os._exit(_EXIT_CODE)
