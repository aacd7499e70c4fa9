"""ImageNet is read from its archives and folders, here tiny ones with real photographs."""

import io
import pathlib
import tarfile

import chex
from data_helpers import encode, make_config, make_store_config
import numpy as np
from PIL import Image
import pytest
import scipy.io

from alexnet_jax.data import decode_canvas, imagenet, open_dataset
from alexnet_jax.data.decode import Canvas
from alexnet_jax.data.prepare import prepare
from alexnet_jax.data.sources import open_source
from alexnet_jax.errors import UserError

# The classes of the first three validation images of 2012, and another class. DEVKIT has a different order.
FIRST = ('n01751748', 'n09193705', 'n02105855')
WNIDS = tuple(sorted((*FIRST, 'n01440764')))
DEVKIT = ('n02105855', 'n01440764', 'n09193705', 'n01751748')
WORDS = {'n01440764': 'tench, Tinca tinca', 'n09193705': 'alp'}


def photographs() -> list[Image.Image]:
  """Returns twelve gray photographs of solar cells (data set elpv), 300x300 pixels each."""
  split = open_source(make_config('elpv')).train
  return [Image.open(io.BytesIO(split.read(i))).convert('L') for i in range(12)]


def files() -> list[bytes]:
  """Returns the photographs in the formats of ImageNet: RGB, gray and CMYK JPEG files, and one PNG file."""
  images = photographs()
  encoded = [encode(image.convert('RGB'), quality=90) for image in images]
  encoded[1] = encode(images[1], quality=90)
  encoded[2] = encode(images[2].convert('RGB').convert('CMYK'), quality=90)
  encoded[3] = encode(images[3].convert('RGB'), 'PNG')
  return encoded


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
  info = tarfile.TarInfo(name)
  info.size = len(data)
  archive.addfile(info, io.BytesIO(data))


def write_devkit(root: pathlib.Path, year: int = 2012) -> pathlib.Path:
  """Writes a devkit whose last synset is a group of classes."""
  folder = root / {2012: 'ILSVRC2012_devkit_t12', 2010: 'devkit-1.0'}[year]
  (folder / 'data').mkdir(parents=True)
  kinds = [(f'ILSVRC{year}_ID', 'O'), ('WNID', 'O'), ('words', 'O'), ('num_children', 'O')]
  rows = [(k, wnid, WORDS.get(wnid, f'words of {wnid}'), 0) for k, wnid in enumerate(DEVKIT, 1)]
  synsets = np.array([*rows, (5, 'n00001740', 'entity', 4)], kinds)
  scipy.io.savemat(folder / 'data/meta.mat', {'synsets': synsets})
  truth = ''.join(f'{DEVKIT.index(wnid) + 1}\n' for wnid in FIRST)
  (folder / f'data/ILSVRC{year}_validation_ground_truth.txt').write_text(truth)
  return folder


def write_folders(root: pathlib.Path, year: int = 2012, flat: bool = True) -> pathlib.Path:
  """Writes train/WNID/*.JPEG and three validation images, in one folder or in class folders."""
  data = files()
  for k, wnid in enumerate(WNIDS):
    (root / 'train' / wnid).mkdir(parents=True)
    for i in (k, k + 4):
      (root / 'train' / wnid / f'{wnid}_{i}.JPEG').write_bytes(data[i])
  for i, wnid in enumerate(FIRST):
    folder = root / 'val' / ('' if flat else wnid)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f'ILSVRC{year}_val_{i + 1:08}.JPEG').write_bytes(data[8 + i])
  return root


def write_archives(root: pathlib.Path, prefix: str = '') -> pathlib.Path:
  """Writes the two official archives: a tar with one tar per class, and a flat tar."""
  data = files()
  root.mkdir()
  with tarfile.open(root / 'ILSVRC2012_img_train.tar', 'w') as archive:
    for k, wnid in enumerate(WNIDS):
      inner = io.BytesIO()
      with tarfile.open(fileobj=inner, mode='w') as class_archive:
        for i in (k, k + 4):
          add(class_archive, f'{wnid}_{i}.JPEG', data[i])
      add(archive, f'{wnid}.tar', inner.getvalue())
  with tarfile.open(root / 'ILSVRC2012_img_val.tar', 'w') as archive:
    for i in range(3):
      add(archive, f'{prefix}ILSVRC2012_val_{i + 1:08}.JPEG', data[8 + i])
  return root


def check(source, expected: dict[str, tuple[str, ...]]) -> None:
  """Checks that every image decodes to its photograph and has the right class."""
  images = [np.asarray(image) for image in photographs()]
  for split, wnids in (('train', expected['train']), ('validation', expected['validation'])):
    images_of = getattr(source, split)
    assert len(images_of) == len(wnids)
    seen = set()
    for i in range(len(images_of)):
      canvas = source_canvas(images_of, i)
      distance = [np.abs(canvas.astype(int) - small(image)[:, :, None]).mean() for image in images]
      best = int(np.argmin(distance))
      assert distance[best] < 4
      wnid = FIRST[best - 8] if split == 'validation' else WNIDS[best % 4]
      assert source.class_names[images_of.labels[i]] == wnid
      seen.add(best)
    assert len(seen) == len(wnids)


def source_canvas(split, i: int) -> np.ndarray:
  return decode_canvas(split.read(i), Canvas(24))


def small(image: np.ndarray) -> np.ndarray:
  return np.asarray(Image.fromarray(image).resize((24, 24), Image.Resampling.BICUBIC)).astype(int)


ALL = {'train': WNIDS * 2, 'validation': FIRST}


@pytest.mark.parametrize(('year', 'flat'), [(2012, True), (2012, False), (2010, True)])
def test_extracted_folders_are_read(tmp_path, year, flat):
  root = write_folders(tmp_path / 'imagenet', year, flat)
  if flat:
    write_devkit(root, year)
  source = open_source(make_config(f'folder:{root}'))
  assert source.class_names == WNIDS
  check(source, ALL)


def test_the_labels_of_2012_are_those_of_tfds():
  tfds = pytest.importorskip('tensorflow_datasets')
  path = pathlib.Path(tfds.__file__).parent / 'datasets/imagenet2012/validation_labels.txt'
  assert imagenet.validation_of_2012() == path.read_text().split()


def test_without_a_devkit_the_labels_of_2012_are_known(tmp_path):
  check(open_source(make_config(f'folder:{write_folders(tmp_path / "imagenet")}')), ALL)


def test_official_archives_are_read_by_tfds_and_stored(tmp_path):
  pytest.importorskip('tensorflow_datasets')
  manual = write_archives(tmp_path / 'manual')
  places = {'data_dir': str(tmp_path / 'tfds'), 'manual_dir': str(manual)}
  source = open_source(make_config('tfds:imagenet2012', **places))
  assert len(source.class_names) == 1000 and source.class_names[0] == 'n01440764'
  check(source, ALL)
  result = prepare(make_store_config('tfds:imagenet2012', **places), str(tmp_path / 'store'))
  assert result['images'] == {'train': 8, 'validation': 3} and result['skipped'] == 0
  store = open_source(make_config(f'store:{tmp_path / "store"}'))
  assert store.class_names == source.class_names
  check(store, ALL)


def test_an_archive_that_tfds_would_mislabel_is_refused(tmp_path):
  pytest.importorskip('tensorflow_datasets')
  manual = write_archives(tmp_path / 'manual', 'val/')
  config = make_config('tfds:imagenet2012', data_dir=str(tmp_path / 't'), manual_dir=str(manual))
  with pytest.raises(UserError, match='TFDS would give wrong labels'):
    open_source(config)


def test_label_orders_can_be_converted(tmp_path):
  root = write_folders(tmp_path / 'imagenet')
  devkit = write_devkit(tmp_path / 'elsewhere')
  original = open_source(make_config(f'folder:{root}', label_order='devkit', devkit=str(devkit)))
  assert original.class_names == DEVKIT
  check(original, ALL)
  config = make_store_config(f'folder:{root}', label_order='devkit', devkit=str(devkit))
  prepare(config, str(tmp_path / 'store'))
  kept = open_source(make_config(f'store:{tmp_path / "store"}'))
  assert kept.class_names == DEVKIT
  words = {wnid: WORDS.get(wnid, f'words of {wnid}') for wnid in DEVKIT}
  assert kept.class_titles == tuple(words[wnid] for wnid in DEVKIT)
  check(kept, ALL)
  back = open_source(make_config(f'store:{tmp_path / "store"}', label_order='wordnet'))
  assert back.class_names == WNIDS
  assert back.class_titles == tuple(words[wnid] for wnid in WNIDS)
  check(back, ALL)
  labels = np.arange(4, dtype=np.int32)
  converted = imagenet.convert(labels, WNIDS, DEVKIT)
  chex.assert_trees_all_equal(imagenet.convert(converted, DEVKIT, WNIDS), labels)
  chex.assert_trees_all_equal(converted, np.int32([DEVKIT.index(wnid) for wnid in WNIDS]))


def test_classes_have_readable_names(tmp_path):
  devkit = str(write_devkit(tmp_path))
  assert imagenet.titles(WNIDS, tmp_path, devkit)[0] == 'tench, Tinca tinca'
  nowhere = tmp_path / 'nowhere'
  found = imagenet.titles((*WNIDS, 'n99999999'), nowhere, '')
  assert found[0] == 'tench, Tinca tinca' and found[3] == 'alp' and found[4] == 'n99999999'
  assert imagenet.titles(('cat', 'dog'), nowhere, '') is None


def test_invalid_folders_and_settings_are_refused(tmp_path):
  root = write_folders(tmp_path / 'imagenet', 2010)

  def message(**changes):
    with pytest.raises(UserError) as raised:
      open_source(make_config(f'folder:{root}', **changes))
    return str(raised.value)

  assert 'its labels are in the devkit' in message()
  assert 'there is no data/meta.mat' in message(devkit=str(tmp_path / 'nowhere'))
  devkit = str(write_devkit(tmp_path, 2012))
  assert 'name the devkit of that year' in message(devkit=devkit)
  devkit = str(write_devkit(tmp_path, 2010))
  assert "must be one of '', wordnet, devkit" in message(devkit=devkit, label_order='alphabet')
  (root / 'val/ILSVRC2010_val_00000004.JPEG').write_bytes(b'')
  assert 'labels for only 3 images' in message(devkit=devkit)
  (root / 'val/ILSVRC2010_val_00000004.JPEG').rename(root / 'val/cat.jpg')
  assert 'val holds cat.jpg' in message(devkit=devkit)
  (root / 'val/cat.jpg').unlink()
  for path in (root / 'train/n09193705').iterdir():
    path.unlink()
  (root / 'train/n09193705').rmdir()
  assert 'of class n09193705, which has no training images' in message(devkit=devkit)
  with pytest.raises(UserError, match='not WordNet IDs'):
    open_dataset(make_config(label_order='wordnet'), 0)
  (pathlib.Path(devkit) / 'data/meta.mat').write_bytes(b'no matrices')
  assert 'cannot be read' in message(devkit=devkit)
