"""SIGTERM: stop soon, lose nothing.

A machine that is taken away gives half a minute's notice. While there is nothing to lose (data are read, a
checkpoint is restored, the first step is compiled), the process leaves at once, even where Python's main
thread is inside a compiler and would hear of the signal only when that is done. Once a step was taken, the
signal is noted, and the loop stops at the end of a step, or between two batches of an evaluation.
"""

import contextlib
import os
import signal
import threading

import jax
from jax.experimental import multihost_utils

_CODE = 75
_GONE = b'stopped by SIGTERM before there was anything new to save: the same command resumes\n'


class StopSignal:
  """Hears SIGTERM; use as a context manager, in the main thread.

  Of several processes all stop at the same step, whichever of them got the signal: `jax.distributed` has its
  own handler, which they agree through. In a thread that is not the main one nothing is heard.
  """

  def __init__(self):
    self._together = jax.process_count() > 1
    self._received = False
    self._to_lose = False
    self._lock = threading.Lock()

  def __enter__(self):
    self._stack = contextlib.ExitStack()
    if self._together or threading.current_thread() is not threading.main_thread():
      return self
    ear, mouth = os.pipe()
    os.set_blocking(mouth, False)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    # C writes the signal's number to the pipe at once, whatever Python is at.
    before_fd = signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
    watcher = threading.Thread(target=self._watch, args=(ear,), name='sigterm', daemon=True)
    watcher.start()

    def end():
      signal.set_wakeup_fd(before_fd)
      signal.signal(signal.SIGTERM, before)
      os.close(mouth)  # ends the watcher
      watcher.join()
      os.close(ear)

    self._stack.callback(end)
    return self

  def __exit__(self, *_):
    self._stack.close()

  def something_to_lose(self) -> None:
    """From now on SIGTERM is only noted."""
    with self._lock:
      self._to_lose = True

  def nothing_to_lose(self) -> None:
    """From now on SIGTERM ends the process at once."""
    with self._lock:
      self._to_lose = False

  def asked_at(self, step: int) -> bool:
    """Whether to stop at the end of `step`; of several processes the answer is the same on all."""
    if self._together:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._received

  def asked(self) -> bool:
    """Whether to stop within a step; of several processes none does."""
    return self._received

  def _watch(self, ear: int) -> None:
    while numbers := os.read(ear, 64):
      if signal.SIGTERM not in numbers:
        continue
      with self._lock:
        self._received = True
        if not self._to_lose:
          os.write(2, _GONE)
          os._exit(_CODE)
