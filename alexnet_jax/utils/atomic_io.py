"""Files that survive the machine: written whole or not at all, on the disk before they count, checked.

A folder is *sealed* by `manifest.json`, written last: what is known of it, and the size and SHA-256 of
every file in it. A folder without one is not finished; one that does not agree with it is damaged.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
import hashlib
import json
import os
import pathlib

MANIFEST = 'manifest.json'
_SYNCS = 16


def sync(path: str | os.PathLike) -> None:
  """Brings a file, or the names in a folder, to the disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def write(path: pathlib.Path, text: str) -> None:
  """Writes a text file under a temporary name, syncs it and renames it: readers see the old or the new."""
  temporary = path.with_name(f'{path.name}.{os.getpid()}')
  try:
    with temporary.open('w') as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)
  sync(path.parent)


def seal(folder: pathlib.Path, facts: Mapping) -> int:
  """Syncs everything in `folder` and writes its manifest; returns the bytes of its files.

  Args:
    folder: whose files are complete.
    facts: JSON-able, kept in the manifest under the same digest.
  """
  folders: list[str] = []
  files: dict[str, tuple[int, str]] = {}
  for root, _, names in os.walk(folder):
    folders.append(root)
    for name in names:
      path = pathlib.Path(root, name)
      if path != folder / MANIFEST:
        files[str(path.relative_to(folder))] = (path.stat().st_size, _digest_of_file(path))
  with ThreadPoolExecutor(_SYNCS) as pool:  # many at once cost the disk little more than one
    list(pool.map(sync, [*(folder / name for name in files), *folders]))
  _write_manifest(folder, {'files': files, 'facts': dict(facts)})
  return sum(size for size, _ in files.values())


def reseal(folder: pathlib.Path, facts: Mapping) -> None:
  """Replaces the facts in a manifest; the files are those that it knows."""
  _write_manifest(folder, {'files': _manifest(folder)['files'], 'facts': dict(facts)})


def facts(folder: pathlib.Path) -> dict:
  """The facts of a sealed folder.

  Raises:
    ValueError: there is no manifest, or it is damaged.
  """
  return _manifest(folder)['facts']


def check(folder: pathlib.Path) -> None:
  """Reads every file of a sealed folder.

  Raises:
    ValueError: the manifest or a file is missing, or not what was written.
  """
  for name, (size, digest) in _manifest(folder)['files'].items():
    path = folder / name
    try:
      found = path.stat().st_size
      if found != size:
        raise ValueError(f'{name} has {found} bytes of {size}')
      if _digest_of_file(path) != digest:
        raise ValueError(f'{name} holds other bytes than were written')
    except FileNotFoundError:
      raise ValueError(f'{name} is missing') from None
    except OSError as error:
      raise ValueError(f'{name} cannot be read: {error.strerror}') from None


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
  except FileNotFoundError:
    raise ValueError(f'{MANIFEST} is missing') from None
  except OSError as error:
    raise ValueError(f'{MANIFEST} cannot be read: {error.strerror}') from None
  except (ValueError, KeyError, TypeError, AttributeError):
    pass
  raise ValueError(f'{MANIFEST} is not what was written')
