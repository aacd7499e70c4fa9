"""The files of a multipart/form-data request, which `curl -F image=@FILE` and HTML forms send.

The body is split at its boundary (RFC 2046, section 5.1), and the `email` package of Python reads the
headers. It could read the whole body too, but it splits it into lines: a body of 8 MiB of short lines took
it 7 seconds and 420 MiB of memory.
"""

from collections.abc import Callable
from email import message_from_string
from email.message import Message
from typing import NamedTuple

from alexnet_jax.serve.limits import Refused

MAX_PARTS = 16  # parts of a form
_MAX_HEADER = 2048  # bytes of the headers of a part; `email` takes quadratic time to read them
_MAX_TYPE = 300  # characters of the Content-Type header of a form
_MEDIA_TYPE = 'multipart/form-data'


class File(NamedTuple):
  """A file of a form.

  Attributes:
    name: the name that the sender gave it.
    content: a part of the body; it is not copied.
  """

  name: str
  content: memoryview


def is_form(content_type: str) -> bool:
  """Returns whether a request with this Content-Type header holds a form."""
  return content_type.partition(';')[0].strip().lower() == _MEDIA_TYPE


def files(body: bytes | bytearray, content_type: str) -> list[File]:
  """Returns the files of a form; parts without a file name are left out.

  Args:
    body: the body of the request.
    content_type: its Content-Type header.

  Raises:
    Refused: the form is malformed or has no file (400), or has more than `MAX_PARTS` parts (413).
  """
  if len(content_type) > _MAX_TYPE:
    raise Refused(400, 'the Content-Type header is too long')
  boundary = _parameter(f'Content-Type: {content_type}\n\n', Message.get_boundary)
  if not boundary or not boundary.isascii():
    raise Refused(400, 'the form has no boundary in its Content-Type header')
  found = []
  for header, content in _parts(body, b'--' + boundary.encode()):
    # Browsers write names in UTF-8, although a mail would encode them.
    name = _parameter(header.decode('utf-8', 'replace'), Message.get_filename)
    if name:
      found.append(File(name, content))
  if not found:
    raise Refused(400, 'the form has no file: send one as in curl -F image=@FILE')
  return found


def _parameter(header: str, get: Callable[[Message], str | None]) -> str | None:
  """Returns what `get` finds in a header; `email` raises many types of errors on malformed ones."""
  try:
    return get(message_from_string(header))
  except (ValueError, TypeError, LookupError):
    raise Refused(400, 'the form is malformed: its headers cannot be read') from None


def _parts(body: bytes | bytearray, mark: bytes) -> list[tuple[bytes, memoryview]]:
  """Returns (headers, content) of each part; a line that begins with `mark` precedes each of them."""
  view, parts = memoryview(body), []
  start = 0 if body.startswith(mark) else body.find(b'\r\n' + mark) + 2
  if start == 1:
    raise Refused(400, 'the form does not contain its boundary')
  while True:
    start += len(mark)
    if body.startswith(b'--', start):  # the mark with two hyphens ends the form
      return parts
    line_end = body.find(b'\r\n', start)
    end = body.find(b'\r\n' + mark, line_end)
    head_end = body.find(b'\r\n\r\n', line_end, line_end + _MAX_HEADER)
    if line_end < 0 or end < 0 or not line_end <= head_end < end or body[start:line_end].strip():
      raise Refused(400, 'the form is malformed or incomplete')
    if len(parts) == MAX_PARTS:
      raise Refused(413, f'the form has too many parts: at most {MAX_PARTS}')
    parts.append((bytes(view[line_end + 2 : head_end]), view[head_end + 4 : end]))
    start = end + 2
