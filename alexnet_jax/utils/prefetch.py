"""Threads that produce items ahead of their consumer."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor
import queue
import threading
from typing import TypeVar

T = TypeVar('T')
R = TypeVar('R')


def prefetch(items: Iterator[T], ahead: int) -> Generator[T]:
  """Yields `items`, which a thread produces up to `ahead` items in advance.

  The thread ends when the items end, or when the generator is closed or garbage-collected. An
  exception raised by `items` is raised here, at its position in the order.
  """
  ready: queue.Queue = queue.Queue(ahead)
  stop = threading.Event()

  def produce() -> None:
    end: BaseException = StopIteration()
    try:
      for item in items:
        ready.put((item, None))
        if stop.is_set():
          return
    except BaseException as error:
      end = error
    if not stop.is_set():
      ready.put((None, end))

  thread = threading.Thread(target=produce, name='prefetch', daemon=True)
  thread.start()
  try:
    while True:
      item, error = ready.get()
      if isinstance(error, StopIteration):
        return
      if error is not None:
        raise error
      yield item
  finally:
    stop.set()
    while thread.is_alive():  # empty the queue, since the thread may be blocked in put()
      try:
        ready.get_nowait()
      except queue.Empty:
        thread.join(0.01)


def map_ahead(
  pool: Executor, function: Callable[[T], R], items: Iterable[T], ahead: int
) -> Iterator[R]:
  """Yields function(item) in order, with up to `ahead` further items submitted to the pool.

  An exception raised by the function is raised here, at its position in the order. Closing the
  generator cancels the calls that have not started.
  """
  waiting: deque = deque()
  try:
    for item in items:
      waiting.append(pool.submit(function, item))
      if len(waiting) > ahead:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()
  finally:
    for future in waiting:
      future.cancel()
