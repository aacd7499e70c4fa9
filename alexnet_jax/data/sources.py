"""Opens `config.data.source`: encoded images with labels.

A source knows the names and labels of its images and how to read their bytes; it does not decode
them. The forms are `folder:PATH`, `tfds:NAME`, `store:PATH`, `elpv` and `synthetic`.
"""

import contextlib
import os
import pathlib
from typing import Any

from absl import logging
import numpy as np

from alexnet_jax.data import imagenet, keys
from alexnet_jax.data.decode import Canvas
from alexnet_jax.data.splits import Source, Split, generator, split_off
from alexnet_jax.data.store.reader import open_store
from alexnet_jax.data.tfds import open_tfds
from alexnet_jax.errors import UserError
from alexnet_jax.utils.optional_import import import_module

FORMS = 'folder:PATH, tfds:NAME, store:PATH, elpv, synthetic'
SUFFIXES = ('.jpg', '.jpeg', '.png', '.gif', '.bmp', '.webp', '.tif', '.tiff')
_ELPV_SEED = 2012  # fixed, so that all runs on elpv are evaluated on the same images


def open_source(config_data: Any) -> Source:
  """Opens the source that `config.data.source` names.

  Args:
    config_data: `config.data`, a ConfigDict. Its `split_seed` draws the held-out images and the
      synthetic images. It is separate from the seed of the run, so that runs with different seeds
      are evaluated on the same images and can be averaged.

  Raises:
    UserError: a value of `config_data` is not allowed, or the source is missing, empty or malformed.
  """
  keys.check(config_data)
  _allow_open_files()
  form, _, path = config_data.source.partition(':')
  root = pathlib.Path(path).expanduser()
  source = _open(config_data, form, path, root)
  return imagenet.reorder(source, config_data.label_order, root, config_data.devkit)


def _allow_open_files() -> None:
  """Raises the limit of open files as far as this process may."""
  # Every file of a store, and of a TFDS set in ArrayRecord format, stays open after it was first read. Large
  # sets such as tfds:imagenet2012 have more files than the usual limit of 1024.
  with contextlib.suppress(ImportError, OSError, ValueError):
    import resource  # Unix only

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def short_name(source: str) -> str:
  """Returns a short name of `config.data.source`.

  It is `photos` for `folder:a/photos`, and `cifar10:3.0.2` for `tfds:cifar10:3.0.2`.
  """
  form, _, path = source.partition(':')
  return path if form == 'tfds' else os.path.basename(path.rstrip('/')) or source


def _open(config_data: Any, form: str, path: str, root: pathlib.Path) -> Source:
  """Opens the source, with its classes in its own order."""
  seed = config_data.split_seed
  if form == 'folder' and path:
    return _open_folder(root, config_data.holdout, seed, config_data.devkit)
  if form == 'tfds' and path:
    return open_tfds(path, config_data)
  if form == 'store' and path:
    return open_store(str(root), Canvas.from_config(config_data.canvas))
  if config_data.source == 'elpv':
    return _open_elpv(config_data.task, config_data.holdout)
  if config_data.source == 'synthetic':
    return _open_synthetic(config_data.synthetic, config_data.canvas.size, seed)
  raise UserError(f'config.data.source={config_data.source!r} is unknown; use one of {FORMS}')


def _open_folder(root: pathlib.Path, share: float, seed: int, devkit: str) -> Source:
  """Opens PATH/{train, val|validation, test}/CLASS/* or PATH/CLASS/*; `test` is not read.

  The validation images of ImageNet may lie in one folder, as they come out of their archive.
  """
  if not root.is_dir():
    raise UserError(
      f'config.data.source=folder:{root}: there is no such folder; name PATH of PATH/CLASS/*.jpg'
    )
  folders, _ = _visible(root)
  beside = [f for f in folders if f != 'train' and 'devkit' not in f]
  if 'train' not in folders or _train_is_class(root, beside):
    if folders and set(folders) <= {'val', 'validation', 'test'}:
      raise UserError(f'config.data.source=folder:{root}: it has {", ".join(folders)} but no train')
    images, names = _read_folder(root)
    return Source(*split_off(images, images.labels, share, seed), names)
  train, names = _read_folder(root / 'train')
  validation_names = [name for name in ('val', 'validation') if name in folders]
  if len(validation_names) == 2:
    raise UserError(f'config.data.source=folder:{root}: it has val and validation; keep one')
  expected = [*validation_names, 'test'] if validation_names else []
  if unread := [str(root / name) for name in beside if name not in expected]:
    held_out = (
      ', and validation images are held out of train: to evaluate on the images of another folder, '
      'rename the folder to val'
    )
    logging.warning('not read: %s%s', ', '.join(unread), '' if validation_names else held_out)
  if not validation_names:
    return Source(*split_off(train, train.labels, share, seed), names)
  folder = root / validation_names[0]
  class_folders, files = _visible(folder)
  if files and not class_folders and imagenet.is_imagenet(names):
    validation = imagenet.open_flat(folder, names, imagenet.find_devkit(root, devkit))
  else:
    validation, _ = _read_folder(folder, names)
  return Source(train, validation, names)


def _train_is_class(root: pathlib.Path, beside: list[str]) -> bool:
  """Returns whether root/train is a class, as the folders beside it are, given their names."""
  splits = [name for name in beside if name.lower().startswith(('val', 'test', 'dev', 'eval'))]
  if not beside or splits or _visible(root / 'train')[0]:
    return False
  for name in ('train', *beside):
    if not any(file.lower().endswith(SUFFIXES) for file in _visible(root / name)[1]):
      return False
  logging.warning('%s/train has no class folders and is read as a class, as %s', root, beside[0])
  return True


def _read_folder(
  root: pathlib.Path, names: tuple[str, ...] | None = None
) -> tuple[Split, tuple[str, ...]]:
  """Lists the images of root/CLASS/*, sorted by class and file name.

  Args:
    root: the folder of class folders.
    names: the allowed classes, in the order of the labels; None allows the classes found.

  Returns:
    The split, and the names of the classes.

  Raises:
    UserError: there are no class folders, one has no images, or one is not in `names`.
  """
  folders, beside = _visible(root)
  if not folders:
    raise UserError(f'{root} holds no class folders; images are expected as {root}/CLASS/IMAGE')
  names = names or tuple(folders)
  if unknown := [folder for folder in folders if folder not in names]:
    raise UserError(
      f'{root} has classes without training images: {", ".join(unknown)}; remove them, or add '
      'training images'
    )
  paths, labels = [], []
  others = [file for file in beside if file.lower().endswith(SUFFIXES)]
  for folder in folders:
    inside, found = _visible(root / folder)
    files = [f for f in found if f.lower().endswith(SUFFIXES)]
    others += [os.path.join(folder, f) for f in sorted({*inside, *found}.difference(files))]
    if not files:
      raise UserError(
        f'class folder {root / folder} holds no images ({" ".join(SUFFIXES)}): remove or fill it'
      )
    paths += [os.path.join(folder, file) for file in files]
    labels += [names.index(folder)] * len(files)
  if others:
    logging.warning(
      '%s or its class folders hold other files or folders, which are not read (%d, for example %s): images '
      'must be files %s/CLASS/IMAGE whose names end in %s',
      root,
      len(others),
      others[0],
      root,
      ' '.join(SUFFIXES),
    )

  def read(i: int) -> bytes:
    return (root / paths[i]).read_bytes()

  return Split(np.asarray(labels, np.int32), read, lambda i: str(root / paths[i])), names


def _visible(root: pathlib.Path) -> tuple[list[str], list[str]]:
  """Returns the sorted names of the folders, and of the files, in `root` that are not hidden."""
  names: dict[bool, list[str]] = {True: [], False: []}
  try:
    with os.scandir(root) as entries:
      for entry in entries:
        if entry.name[0] != '.':
          names[entry.is_dir()].append(entry.name)
    return sorted(names[True]), sorted(names[False])
  except OSError as error:
    raise UserError(f'{root} cannot be read ({error.strerror}): check its permissions') from None


def _open_elpv(task: str, share: float) -> Source:
  """Opens elpv: 2,624 gray electroluminescence images of solar cells, 300x300 pixels each.

  Task `type` separates mono- from polycrystalline cells. Task `defect` calls a cell defective if its
  probability of a defect, which experts gave as 0, 1/3, 2/3 or 1, is at least 0.5. The held-out
  images are the same for both tasks and all seeds: a share of each pair of type and probability.
  The images are in the PyPI package elpv-dataset, which the extra `data` installs.
  """
  package = import_module('elpv_dataset', 'data', 'config.data.source=elpv')
  root = pathlib.Path(package.__file__).parent / 'data'
  rows = [line.split() for line in (root / 'labels.csv').read_text().splitlines() if line.strip()]
  paths = [path for path, _, _ in rows]
  defect = np.asarray([float(probability) for _, probability, _ in rows])
  poly = np.asarray([kind == 'poly' for _, _, kind in rows])
  labels = poly if task == 'type' else defect >= 0.5
  names = ('mono', 'poly') if task == 'type' else ('functional', 'defective')
  labels = labels.astype(np.int32)
  images = Split(labels, lambda i: (root / paths[i]).read_bytes(), paths.__getitem__)
  strata = 4 * poly + np.round(3 * defect).astype(int)
  return Source(*split_off(images, strata, share, _ELPV_SEED), names)


def _open_synthetic(config: Any, size: int, seed: int) -> Source:
  """Generates coloured gratings with noise: a data set for tests that a network learns in a few steps."""

  def split(name: str, first: int, number: int) -> Split:
    def read(i: int) -> np.ndarray:
      return _grating(seed, first + i, i % config.classes, config.classes, size)

    labels = np.arange(number, dtype=np.int32) % config.classes
    return Split(labels, read, lambda i: f'synthetic/{seed}/{config.classes}/{name}/{i}')

  validation = split('validation', config.train, config.validation) if config.validation else None
  names = tuple(f'class{c}' for c in range(config.classes))
  return Source(split('train', 0, config.train), validation, names)


def _grating(seed: int, index: int, label: int, classes: int, size: int) -> np.ndarray:
  """Draws a grating, uint8 [S, S, 3].

  The class sets hue and frequency; direction, phase and noise are random.
  """
  rng = generator(seed, index, purpose=2)
  direction, phase = rng.uniform(0, 2 * np.pi, 2)
  frequency = 2 * np.pi * (2 + label % 7) / size
  along = np.arange(size, dtype=np.float32) * np.float32(frequency)
  wave = np.cos(np.sin(direction) * along[:, None] + np.cos(direction) * along + phase)
  hue = np.cos(2 * np.pi * (label / classes + np.arange(3) / 3))
  image = 128 + (30 + 30 * wave[:, :, None]) * hue
  return (image + rng.integers(-40, 41, (size, size, 3), np.int8)).astype(np.uint8)
