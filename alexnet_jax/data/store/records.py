"""ArrayRecord files that NumPy alone can read.

ArrayRecord lies in Riegeli, a container cut into blocks of 64 KiB that each begin with a header of
24 bytes; without the headers, what was written uncompressed is one stream in which every payload
lies in one piece. `write` notes where, after reading each one back, and `read` takes it from there:
neither the array_record package nor TensorFlow is needed, and no byte is stored twice.
"""

from collections.abc import Callable, Iterable
import os
import zlib

import numpy as np

from alexnet_jax.errors import RunError
from alexnet_jax.utils.optional_import import import_module

_OPTIONS = (
  'group_size:1,uncompressed'  # one record a chunk, for random access; JPEG shrinks no more
)
_BLOCK, _HEADER = 2**16, 24  # of Riegeli's file format
_STREAM = _BLOCK - _HEADER
_PREFIX = 64  # bytes of a payload that are looked for
_WINDOW = 2**16  # within so many bytes of the end of the last one


def read(file: np.ndarray, offset: int, out: np.ndarray) -> None:
  """Copies a part of the stream of a file.

  Args:
    file: the bytes of the file, uint8 [F], usually a memory map.
    offset: where the part begins in the stream.
    out: where it goes, uint8 [n], contiguous.
  """
  done = 0
  while done < len(out):
    block, place = divmod(offset + done, _STREAM)
    number = min(len(out) - done, _STREAM - place)
    start = block * _BLOCK + _HEADER + place
    out[done : done + number] = file[start : start + number]
    done += number


def write(path: str, records: Iterable[tuple[bytes, bytes]]) -> tuple[np.ndarray, np.ndarray]:
  """Writes an ArrayRecord file under a temporary name, reads it back, and renames it.

  Args:
    path: of the file; its folder exists.
    records: pairs of a record and a payload that lies within it in one piece.

  Returns:
    Where each payload begins in the stream of the file, int64 [n], and its length, int32 [n].

  Raises:
    OSError: the file cannot be written.
    RunError: the disk is full, or the file does not read back as it was written.
  """
  module = import_module('array_record.python.array_record_module', 'array-record', 'a store')
  temporary = f'{path}.{os.getpid()}'
  heads = []
  try:
    open(temporary, 'wb').close()  # a folder that may not be written is told of by Python
    writer = module.ArrayRecordWriter(temporary, _OPTIONS)
    for record, payload in records:
      heads.append((payload[:_PREFIX], len(payload), zlib.crc32(payload)))
      _tell(writer.write, path, record)
    _tell(writer.close, path)
    with open(temporary, 'rb+') as file:
      os.fsync(file.fileno())
    offsets = _locate(np.memmap(temporary, np.uint8, 'r'), heads, path)
    os.replace(temporary, path)
  finally:
    if os.path.exists(temporary):
      os.remove(temporary)
  return offsets, np.asarray([size for _, size, _ in heads], np.int32)


def _tell(work: Callable, path: str, *args: bytes) -> None:
  """Calls a method of the writer, whose every failure is a RuntimeError."""
  try:
    work(*args)
  except RuntimeError as error:
    raise RunError(
      f'{path} cannot be written ({" ".join(str(error).split())}): free the disk, then run the same '
      'command again; what is finished is kept'
    ) from error


def _locate(file: np.ndarray, heads: list[tuple[bytes, int, int]], path: str) -> np.ndarray:
  """Where the payloads (first bytes, length, CRC-32) begin in the stream of a file, int64 [n]."""
  offsets, end = np.zeros(len(heads), np.int64), 0
  length = len(file) // _BLOCK * _STREAM
  for i, (prefix, size, checksum) in enumerate(heads):
    window = np.zeros(max(0, min(_WINDOW, length - end)), np.uint8)
    read(file, end, window)
    text, place = window.tobytes(), -1
    found = np.zeros(size, np.uint8)
    while (place := text.find(prefix, place + 1)) >= 0:
      if end + place + size <= length:
        read(file, end + place, found)
        if zlib.crc32(found.data) == checksum:
          break
    else:
      raise RunError(f'{path}: record {i} does not read back as it was written; is the disk full?')
    offsets[i] = end + place
    end = offsets[i] + size
  return offsets
