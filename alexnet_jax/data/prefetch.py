"""A thread that works ahead of its consumer."""

from collections.abc import Iterator
import queue
import threading
from typing import TypeVar

T = TypeVar('T')


def prefetch(items: Iterator[T], ahead: int) -> Iterator[T]:
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
