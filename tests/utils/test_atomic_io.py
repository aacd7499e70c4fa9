"""Files are written atomically, and damage to sealed folders is detected and named."""

import errno
import json
import os
import pathlib

import pytest

from alexnet_jax.utils import atomic_io


@pytest.fixture
def folder(tmp_path):
  (tmp_path / 'sub').mkdir()
  (tmp_path / 'sub' / 'a').write_bytes(bytes(range(256)))
  (tmp_path / 'b').write_bytes(b'')
  assert atomic_io.seal(tmp_path, {'step': 3}) == 256
  return tmp_path


def test_a_sealed_folder_is_intact_and_its_facts_can_be_replaced(folder):
  atomic_io.check(folder)
  assert atomic_io.facts(folder) == {'step': 3}
  atomic_io.reseal(folder, {'step': 4})
  atomic_io.check(folder)
  assert atomic_io.facts(folder) == {'step': 4}
  assert sorted(path.name for path in folder.iterdir()) == ['b', 'manifest.json', 'sub']


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (lambda f: (f / 'sub' / 'a').unlink(), r'sub/a is missing'),
    (lambda f: (f / 'sub' / 'a').write_bytes(bytes(255)), r'sub/a has 255 of 256 bytes'),
    (lambda f: (f / 'sub' / 'a').write_bytes(bytes(256)), r'sub/a does not match'),
    (lambda f: (f / 'b').write_bytes(b'x'), r'b has 1 of 0 bytes'),
    (lambda f: (f / atomic_io.MANIFEST).unlink(), r'manifest\.json is missing'),
    (
      lambda f: (f / atomic_io.MANIFEST).write_text('{"files": {}'),
      r'manifest\.json does not match',
    ),
    (
      lambda f: (f / atomic_io.MANIFEST).write_text('[]'),
      r'manifest\.json does not match',
    ),
  ],
)
def test_damage_is_named(folder, damage, message):
  damage(folder)
  with pytest.raises(ValueError, match=message):
    atomic_io.check(folder)


@pytest.mark.parametrize('number', [errno.ESTALE, errno.EACCES, errno.EMFILE, errno.EIO])
def test_an_error_that_may_pass_is_not_damage(folder, monkeypatch, number):
  """A disk that cannot be read is damage, of the manifest and of other files."""

  def fail(*_):
    raise OSError(number, os.strerror(number))

  expected = ValueError if number == errno.EIO else OSError
  for owner, name in ((pathlib.Path, 'read_bytes'), (atomic_io, '_digest_of_file')):
    with monkeypatch.context() as patch, pytest.raises(expected, match=os.strerror(number)):
      patch.setattr(owner, name, fail)
      atomic_io.check(folder)
  atomic_io.check(folder)


def test_changes_to_the_manifest_are_detected(folder):
  """A changed fact is detected although the files are unchanged."""
  manifest = json.loads((folder / atomic_io.MANIFEST).read_text())
  manifest['facts']['step'] = 4
  (folder / atomic_io.MANIFEST).write_text(json.dumps(manifest))
  with pytest.raises(ValueError, match='does not match its checksum'):
    atomic_io.facts(folder)


def test_a_file_is_replaced_atomically(tmp_path, monkeypatch):
  path = tmp_path / 'file'
  atomic_io.write(path, 'old')
  with monkeypatch.context() as patch, pytest.raises(OSError):
    patch.setattr('os.fsync', lambda _: (_ for _ in ()).throw(OSError('disk')))
    atomic_io.write(path, 'new')
  assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]


def test_a_text_is_utf_8_and_keeps_other_bytes(tmp_path):
  atomic_io.write(tmp_path / 'file', 'é' + os.fsdecode(b'\xe9'))
  assert (tmp_path / 'file').read_bytes() == 'é'.encode() + b'\xe9'
