"""The checks of a request to the page: where it comes from, how long it takes, and how many there are."""

import asyncio
from collections.abc import Iterator
import contextlib
from typing import Any

MAX_UPLOADS = 6  # images that are received, queued or decoded at a time
UPLOAD_SECONDS = 20  # the longest time that an upload may take
RETRY_SECONDS = 2  # after which a refused visitor may try again


class Refused(Exception):
  """A request that is answered with an error.

  Args:
    status: HTTP status.
    message: the reason, for the visitor.
  """

  def __init__(self, status: int, message: str):
    super().__init__(message)
    self.status = status


class Limits:
  """Bounds the memory of uploads.

  At most `MAX_UPLOADS` uploads of at most `max_bytes` are in memory, and one image is decoded at a time.

  Args:
    max_bytes: largest size of an upload: of an image file, or of a form with several.
  """

  def __init__(self, max_bytes: int):
    self.max_bytes = max_bytes
    self.decoding = asyncio.Semaphore(1)
    self._uploads = 0

  @contextlib.contextmanager
  def upload(self) -> Iterator[None]:
    """Counts one upload; raises Refused (503) if there are too many."""
    if self._uploads >= MAX_UPLOADS:
      raise Refused(503, f'the server is busy: try again in {RETRY_SECONDS} seconds')
    self._uploads += 1
    try:
      yield
    finally:
      self._uploads -= 1

  async def read(self, request: Any) -> bytearray:
    """Reads the body of a request.

    Raises:
      Refused: the body is larger than `max_bytes` (413), or takes longer than `UPLOAD_SECONDS` (408).
    """
    data = bytearray()
    try:
      async with asyncio.timeout(UPLOAD_SECONDS):
        async for part in request.stream():
          data += part
          if len(data) > self.max_bytes:
            raise Refused(413, f'the upload is too large: at most {self.max_bytes >> 20} MiB')
    except TimeoutError:
      raise Refused(408, f'the upload took longer than {UPLOAD_SECONDS} seconds') from None
    return data


def check_origin(headers: Any) -> None:
  """Raises Refused (403) if a browser sent the request for a page of another site.

  Browsers attach `Sec-Fetch-Site` and, to a POST, `Origin`; other programs attach neither.

  Args:
    headers: of the request.
  """
  site, origin = headers.get('sec-fetch-site'), headers.get('origin')
  is_foreign = site not in (None, 'same-origin', 'none')
  if is_foreign or (origin is not None and origin.partition('://')[2] != headers.get('host')):
    raise Refused(403, 'the request comes from a page of another site')


async def discard(request: Any, max_bytes: int) -> None:
  """Reads and drops the body of a refused request, so that the visitor can read the answer."""
  with contextlib.suppress(TimeoutError):
    async with asyncio.timeout(UPLOAD_SECONDS):
      async for part in request.stream():
        max_bytes -= len(part)
        if max_bytes < 0:
          return
