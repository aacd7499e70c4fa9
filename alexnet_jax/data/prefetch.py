"""Threads that work ahead of their consumer."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor
import queue
import threading
from typing import TypeVar

T = TypeVar('T')
R = TypeVar('R')


def prefetch(items: Iterator[T], ahead: int) -> Generator[T]:
  """Yields `items`, made in a thread, up to `ahead` of them in advance.

  The thread ends when the items do or when the generator is closed or forgotten. What making an
  item raises is raised here, in its place in the order.
  """
  made: queue.Queue = queue.Queue(ahead)
  stop = threading.Event()

  def work() -> None:
    last: BaseException = StopIteration()
    try:
      for item in items:
        made.put((item, None))
        if stop.is_set():
          return
    except BaseException as error:
      last = error
    if not stop.is_set():
      made.put((None, last))

  thread = threading.Thread(target=work, name='prefetch', daemon=True)
  thread.start()
  try:
    while True:
      item, error = made.get()
      if isinstance(error, StopIteration):
        return
      if error is not None:
        raise error
      yield item
  finally:
    stop.set()
    while thread.is_alive():  # it may be waiting for room in the queue
      try:
        made.get_nowait()
      except queue.Empty:
        thread.join(0.01)


def map_ahead(
  pool: Executor, function: Callable[[T], R], items: Iterable[T], ahead: int
) -> Iterator[R]:
  """Yields function(item) in order; the pool works on up to `ahead` items that are not asked for yet.

  What the function raises is raised here, in its place; closing the generator cancels what has not begun.
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
