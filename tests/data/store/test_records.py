"""ArrayRecord files can be read back by NumPy and by the array_record package."""

import os
import socket

import numpy as np
import pytest

from alexnet_jax.data.store import records
from alexnet_jax.errors import RunError

BLOCK = 2**16


def payloads():
  rng = np.random.default_rng(0)
  sizes = [1, 63, 64, 65, 5000, BLOCK - 25, BLOCK - 24, BLOCK, 3 * BLOCK + 7, *range(40, 60)]
  random = [rng.integers(0, 256, size, np.uint8).tobytes() for size in sizes]
  return [*random, b'a' * 70_000, b'a' * 100, b'', b'a' * 100, bytes(300_000)]


def test_payloads_are_found_at_their_offsets(tmp_path):
  module = pytest.importorskip('array_record.python.array_record_module')
  written, path = payloads(), str(tmp_path / 'file')
  whole = [b'before' + payload + b'a' * 9 for payload in written]
  offsets, sizes = records.write(path, zip(whole, written, strict=True))
  assert os.listdir(tmp_path) == ['file']
  file = np.memmap(path, np.uint8, 'r')
  for payload, offset, size in zip(written, offsets, sizes, strict=True):
    out = np.zeros(size, np.uint8)
    records.read(file, int(offset), out)
    assert out.tobytes() == payload
  reader = module.ArrayRecordReader(path)
  assert reader.num_records() == len(written) and reader.read_all() == whole


def test_a_file_without_records(tmp_path):
  offsets, sizes = records.write(str(tmp_path / 'file'), [])
  assert len(offsets) == len(sizes) == 0


def test_a_payload_that_differs_from_its_record_is_an_error(tmp_path):
  with pytest.raises(RunError, match='record 1 does not read back'):
    records.write(str(tmp_path / 'file'), [(b'abc', b'b'), (b'abc', b'elsewhere')])
  assert not os.listdir(tmp_path)


def test_no_file_remains_after_an_error(tmp_path):
  def broken():
    yield b'abc', b'b'
    raise KeyError('a bug')

  with pytest.raises(KeyError, match='a bug'):
    records.write(str(tmp_path / 'file'), broken())
  assert not os.listdir(tmp_path)


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='there is no /dev/full')
def test_a_full_disk_is_reported(tmp_path):
  path = str(tmp_path / 'file')
  os.symlink(
    '/dev/full', f'{path}.{socket.gethostname()}.{os.getpid()}'
  )  # the temporary file is on a full disk
  with pytest.raises(RunError, match='has space and is writable'):
    records.write(path, [(bytes(10**6), b'')])
  assert not os.path.exists(path)
