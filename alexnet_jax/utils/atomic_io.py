"""Atomic, durable writes, and folders that are verified by checksums.

A folder is *sealed* by `manifest.json`, which is written last. It holds facts about the folder, and the
size and SHA-256 of every file in it. A folder without a manifest is not finished; a folder that
disagrees with its manifest is damaged.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
import contextlib
import errno
import hashlib
import json
import os
import pathlib
import socket
from typing import BinaryIO

# What helps against an OSError when a file is written.
REMEDIES = {
  errno.ENOSPC: 'free the disk',
  errno.EDQUOT: 'free the disk or raise the quota',
  errno.EROFS: 'make the disk writable, or name a folder on another one',
  errno.EIO: 'test the disk, which cannot be read or written',
}
# An error that a library raises may have no number; nothing says that it would pass.
_DAMAGE = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO)
MANIFEST = 'manifest.json'
_SYNC_THREADS = 16


def sync(path: str | os.PathLike) -> None:
  """Flushes a file, or the entries of a folder, to disk (fsync)."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
  """Yields a binary file that takes the place of `path` at the end: readers see the old or the new content.

  If an exception ends the block, `path` stays as it is, and nothing is left behind.
  """
  target = pathlib.Path(path)
  # Processes in containers that share a folder may all have the same number.
  temporary = target.with_name(f'{target.name}.{socket.gethostname()}.{os.getpid()}')
  try:
    with temporary.open('wb') as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    temporary.replace(target)
  finally:
    temporary.unlink(missing_ok=True)
  sync(target.parent)


def write(path: pathlib.Path, text: str) -> None:
  """Writes a text file atomically, as UTF-8; names of files that are not UTF-8 keep their bytes."""
  with replacing(path) as file:
    file.write(text.encode('utf-8', 'surrogateescape'))


def seal(folder: pathlib.Path, facts: Mapping) -> int:
  """Syncs every file in `folder` and writes its manifest.

  Args:
    folder: a folder whose files are complete.
    facts: JSON values to keep in the manifest.

  Returns:
    The total size of the files in bytes.
  """
  folders: list[str] = []
  files: dict[str, tuple[int, str]] = {}
  for root, _, names in os.walk(folder):
    folders.append(root)
    for name in names:
      path = pathlib.Path(root, name)
      if path != folder / MANIFEST:
        files[str(path.relative_to(folder))] = (path.stat().st_size, _digest_of_file(path))
  with ThreadPoolExecutor(_SYNC_THREADS) as pool:  # parallel syncs take little longer than one
    list(pool.map(sync, [*(folder / name for name in files), *folders]))
  _write_manifest(folder, {'files': files, 'facts': dict(facts)})
  return sum(size for size, _ in files.values())


def reseal(folder: pathlib.Path, facts: Mapping) -> None:
  """Replaces the facts in a manifest and keeps its list of files."""
  _write_manifest(folder, {'files': _manifest(folder)['files'], 'facts': dict(facts)})


def facts(folder: pathlib.Path) -> dict:
  """Returns the facts in the manifest of a sealed folder.

  Raises:
    ValueError: the manifest is missing or damaged.
    OSError: it cannot be read for another reason, which may be temporary.
  """
  return _manifest(folder)['facts']


def check(folder: pathlib.Path) -> None:
  """Reads and verifies every file of a sealed folder.

  Raises:
    ValueError: the manifest or a file is missing or damaged.
    OSError: one of them cannot be read for another reason, which may be temporary.
  """
  for name, (size, digest) in _manifest(folder)['files'].items():
    path = folder / name
    try:
      found = path.stat().st_size
      if found != size:
        raise ValueError(f'{name} has {found} of {size} bytes')
      if _digest_of_file(path) != digest:
        raise ValueError(f'{name} does not match its checksum')
    except OSError as error:
      raise _named(name, error) from None


def is_damage(error: OSError) -> bool:
  """Returns whether an error means that a file is missing or damaged.

  All others, such as those of permissions, of open files or of a network disk that does not answer, may pass.
  """
  return error.errno in _DAMAGE


def _named(name: str, error: OSError) -> Exception:
  """Returns the ValueError that names a missing or damaged file, or the error itself if it may pass."""
  if not is_damage(error):
    return error
  is_missing = isinstance(error, FileNotFoundError | NotADirectoryError)
  return ValueError(
    f'{name} is missing' if is_missing else f'{name} cannot be read: {error.strerror}'
  )


def _digest_of_file(path: pathlib.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _digest_of(manifest: Mapping) -> str:
  return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _write_manifest(folder: pathlib.Path, manifest: dict) -> None:
  write(folder / MANIFEST, json.dumps({**manifest, 'sha256': _digest_of(manifest)}))


def _manifest(folder: pathlib.Path) -> dict:
  try:
    manifest = json.loads((folder / MANIFEST).read_bytes())
    digest = manifest.pop('sha256')
    if _digest_of(manifest) == digest:
      return manifest
  except OSError as error:
    raise _named(MANIFEST, error) from None
  except (ValueError, KeyError, TypeError, AttributeError):
    pass
  raise ValueError(f'{MANIFEST} does not match its checksum')
