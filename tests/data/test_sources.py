"""Each data source finds its images and reports invalid input."""

import os
import resource

import chex
from data_helpers import encode, make_config, make_store_config, photo
import numpy as np
import pytest

from alexnet_jax.data import decode_canvas, sources
from alexnet_jax.data.prepare import prepare
from alexnet_jax.data.sources import open_source
from alexnet_jax.errors import UserError


def names(split):
  return {split.name(i) for i in range(len(split))}


@pytest.mark.parametrize('validation', ['val', 'validation'])
def test_folder_with_validation(make_folder, validation, caplog):
  root = make_folder({'train/dog': 3, 'train/cat': 2, f'{validation}/dog': 1, 'test/cat': 4})
  (root / 'train/cat/.hidden.jpg').write_bytes(b'')
  (root / 'train/cat/notes.txt').write_bytes(b'')
  (root / 'train/.cache').mkdir()
  (root / 'train/cat/999.PNG').write_bytes(encode(photo(1), 'PNG'))
  source = open_source(make_config(f'folder:{root}'))
  assert source.class_names == ('cat', 'dog')
  assert (
    'or its class folders hold other files or folders, which are not read (1, for' in caplog.text
  )
  assert 'not read: ' not in caplog.text
  chex.assert_trees_all_equal(source.train.labels, np.int32([0, 0, 0, 1, 1, 1]))
  chex.assert_trees_all_equal(source.validation.labels, np.int32([1]))
  assert source.train.name(2).endswith('cat/999.PNG')
  assert source.train.read(3) == (root / 'train/dog/000.jpg').read_bytes()


@pytest.mark.parametrize('prefix', ['', 'train/'])
def test_folder_without_validation_splits_off_images(make_folder, prefix):
  root = make_folder({f'{prefix}{c}': n for c, n in (('a', 20), ('b', 10), ('c', 1))})
  source = open_source(make_config(f'folder:{root}', split_seed=3))
  assert len(source.train) + len(source.validation) == 31
  chex.assert_trees_all_equal(np.bincount(source.validation.labels), np.array([2, 1]))
  assert not names(source.train) & names(source.validation)
  again = open_source(make_config(f'folder:{root}', split_seed=3))
  assert names(again.validation) == names(source.validation)
  other = open_source(make_config(f'folder:{root}', split_seed=4))
  assert names(other.validation) != names(source.validation)


def test_a_warning_names_the_folders_that_are_not_read(make_folder, caplog):
  root = make_folder({'train/a': 20, 'train/b': 10, 'test/a': 4, 'Val/a': 1, 'devkit-1.0/data': 1})
  source = open_source(make_config(f'folder:{root}'))
  assert f'not read: {root}/Val, {root}/test, and validation images are held out' in caplog.text
  assert 'rename the folder to val' in caplog.text
  assert names(source.validation) and all('train/' in name for name in names(source.validation))
  caplog.clear()
  root = make_folder({'train/a': 1, 'train/b': 1, 'val/a': 1, 'dev/a': 1, 'test/a': 1}, 'other')
  open_source(make_config(f'folder:{root}'))
  assert f'not read: {root}/dev\n' in caplog.text and 'held out' not in caplog.text


def test_files_in_folders_of_a_class_folder_are_counted(make_folder, caplog):
  root = make_folder({'a': 2, 'b': 2, 'b/more': 3})
  (root / 'a/photo.HEIC').write_bytes(b'')
  open_source(make_config(f'folder:{root}'))
  assert '(2, for example a/photo.HEIC): images must be files' in caplog.text


def test_images_beside_the_class_folders_are_counted(make_folder, caplog):
  root = make_folder({'train/a': 2, 'train/b': 2, 'val/a': 1})
  for name in ('labels.csv', 'val/notes.txt'):
    (root / name).write_bytes(b'')
  open_source(make_config(f'folder:{root}'))
  assert 'not read' not in caplog.text
  for name in ('000.JPG', '001.png'):
    (root / 'train' / name).write_bytes(b'')
  source = open_source(make_config(f'folder:{root}'))
  assert f'{root}/train or its class folders hold other files' in caplog.text
  assert '(2, for example 000.JPG): images must be files' in caplog.text
  assert (len(source.train), len(source.validation)) == (4, 1)


def test_train_can_be_a_class(make_folder):
  source = open_source(make_config(f'folder:{make_folder({"bus": 2, "car": 2, "train": 2})}'))
  assert source.class_names == ('bus', 'car', 'train')


def test_train_beside_folders_without_images_is_no_class(make_folder):
  root = make_folder({'train': 2})
  (root / 'annotations').mkdir()
  (root / 'annotations' / 'a.xml').touch()
  with pytest.raises(UserError, match='train holds no class folders'):
    open_source(make_config(f'folder:{root}'))


def test_too_few_images_to_split_off(make_folder):
  root = make_folder({'a': 1, 'b': 1})
  assert open_source(make_config(f'folder:{root}')).validation is None
  root = make_folder({'a': 9}, 'other')
  assert open_source(make_config(f'folder:{root}', holdout=0.0)).validation is None


def test_invalid_folders_are_refused(make_folder, tmp_path):
  def message(root):
    with pytest.raises(UserError) as raised:
      open_source(make_config(f'folder:{root}'))
    assert '\n' not in str(raised.value)
    return str(raised.value)

  assert 'no such folder' in message(tmp_path / 'missing')
  (tmp_path / 'file').write_bytes(b'')
  assert 'no such folder' in message(tmp_path / 'file')
  (tmp_path / 'empty').mkdir()
  assert 'no class folders' in message(tmp_path / 'empty')
  assert 'a/bird' in message(make_folder({'cat': 1, 'bird': 0}, 'a'))
  assert 'b/val/cat' in message(make_folder({'train/cat': 1, 'val/cat': 0}, 'b'))
  assert 'emu, owl' in message(make_folder({'train/a': 1, 'val/owl': 1, 'val/emu': 1}, 'c'))
  assert 'no train' in message(make_folder({'val/cat': 1, 'test/cat': 1}, 'd'))
  assert 'f/train holds no class folders' in message(make_folder({'train': 2, 'test1': 2}, 'f'))
  assert 'keep one' in message(make_folder({'train/a': 1, 'val/a': 1, 'validation/a': 1}, 'e'))


@pytest.mark.parametrize('form', ['', 'folder', 'folder:', 'tfds:', 'store', 'imagenet', 'elpv:x'])
def test_unknown_sources_are_refused(form):
  with pytest.raises(UserError, match='folder:PATH, tfds:NAME, store:PATH, elpv, synthetic'):
    open_source(make_config(form))


@pytest.mark.parametrize('share', [-0.1, 1.0])
def test_an_invalid_holdout_is_refused(share):
  with pytest.raises(UserError, match=r'config\.data\.holdout'):
    open_source(make_config(holdout=share))


def test_the_source_elpv():
  kind, defect = (open_source(make_config('elpv', task=task)) for task in ('type', 'defect'))
  assert kind.class_names == ('mono', 'poly')
  assert defect.class_names == ('functional', 'defective')
  for source, share in ((kind, 1550 / 2624), (defect, 821 / 2624)):
    assert len(source.train) + len(source.validation) == 2624
    assert len(source.validation) == 262
    for split in (source.train, source.validation):
      assert abs(split.labels.mean() - share) < 0.005
  assert not names(kind.train) & names(kind.validation)
  assert names(kind.validation) == names(defect.validation)
  other_seed = open_source(make_config('elpv', split_seed=5))
  assert names(other_seed.validation) == names(kind.validation)
  chex.assert_shape(decode_canvas(kind.validation.read(0)), (256, 256, 3))
  with pytest.raises(UserError, match='must be one of type, defect'):
    open_source(make_config('elpv', task='age'))


def test_a_missing_package_is_named_with_the_remedy(monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'elpv_dataset', None)
  with pytest.raises(UserError, match=r"pip install '(\.|alexnet_jax)\[data\]'"):
    open_source(make_config('elpv'))


def test_the_synthetic_source():
  first, second = (open_source(make_config()) for _ in range(2))
  assert (len(first.train), len(first.validation), len(first.class_names)) == (21, 7, 3)
  chex.assert_trees_all_equal(first.train.read(5), second.train.read(5))
  assert (first.train.read(0) != first.validation.read(0)).any()
  assert (first.train.read(0) != open_source(make_config(split_seed=1)).train.read(0)).any()
  chex.assert_shape(first.train.read(0), (24, 24, 3))
  assert first.train.read(0).dtype == np.uint8
  # A network can learn these data, because the mean colour of an image identifies its class.
  colour = np.array([first.train.read(i).mean((0, 1)) for i in range(21)])
  means = np.array([colour[first.train.labels == c].mean(0) for c in range(3)])
  nearest = np.argmin(((colour[:, None] - means) ** 2).sum(-1), axis=1)
  chex.assert_trees_all_equal(nearest.astype(np.int32), first.train.labels)


@pytest.mark.parametrize(
  ('source', 'name'),
  [
    ('folder:/home/me/photos/', 'photos'),
    ('tfds:cifar10:3.0.2', 'cifar10:3.0.2'),
    ('store:stores/imagenet', 'imagenet'),
    ('elpv', 'elpv'),
  ],
)
def test_data_are_named_without_the_folders_above(source, name):
  assert sources.short_name(source) == name


def test_a_store_may_have_more_files_than_the_usual_limit(tmp_path):
  prepare(make_store_config(shard_images=1), str(tmp_path / 'store'))
  limits = resource.getrlimit(resource.RLIMIT_NOFILE)
  used = set(map(int, os.listdir('/proc/self/fd')))
  free = [number for number in range(len(used) + 10) if number not in used]
  try:
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[9] + 1, limits[1]))  # ten more files
    images = open_source(make_config(f'store:{tmp_path / "store"}')).train
    assert len([images.read(i) for i in range(len(images))]) == 21
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
