"""What each source finds, and how it answers bad input."""

import itertools

import chex
from data_helpers import encode, make_config, photo
import numpy as np
import pytest

from alexnet_jax.data import decode_canvas, open_dataset
from alexnet_jax.data.decode import Canvas
from alexnet_jax.data.sources import open_source
from alexnet_jax.data.splits import hold_out
from alexnet_jax.errors import UserError


def names(split):
  return {split.name(i) for i in range(len(split))}


@pytest.mark.parametrize('validation', ['val', 'validation'])
def test_folder_with_validation(make_folder, validation):
  root = make_folder({'train/dog': 3, 'train/cat': 2, f'{validation}/dog': 1, 'test/cat': 4})
  (root / 'train/cat/.hidden.jpg').write_bytes(b'')
  (root / 'train/cat/notes.txt').write_bytes(b'')
  (root / 'train/.cache').mkdir()
  (root / 'train/cat/999.PNG').write_bytes(encode(photo(1), 'PNG'))
  source = open_source(make_config(f'folder:{root}'))
  assert source.class_names == ('cat', 'dog')
  chex.assert_trees_all_equal(source.train.labels, np.int32([0, 0, 0, 1, 1, 1]))
  chex.assert_trees_all_equal(source.validation.labels, np.int32([1]))
  assert source.train.name(2).endswith('cat/999.PNG')
  assert source.train.read(3) == (root / 'train/dog/000.jpg').read_bytes()


@pytest.mark.parametrize('prefix', ['', 'train/'])
def test_folder_without_validation_holds_some_out(make_folder, prefix):
  root = make_folder({f'{prefix}{c}': n for c, n in (('a', 20), ('b', 10), ('c', 1))})
  source = open_source(make_config(f'folder:{root}', split_seed=3))
  assert len(source.train) + len(source.validation) == 31
  chex.assert_trees_all_equal(np.bincount(source.validation.labels), np.array([2, 1]))
  assert not names(source.train) & names(source.validation)
  again = open_source(make_config(f'folder:{root}', split_seed=3))
  assert names(again.validation) == names(source.validation)
  other = open_source(make_config(f'folder:{root}', split_seed=4))
  assert names(other.validation) != names(source.validation)


def test_nothing_to_hold_out(make_folder):
  root = make_folder({'a': 1, 'b': 1})
  assert open_source(make_config(f'folder:{root}')).validation is None
  root = make_folder({'a': 9}, 'other')
  assert open_source(make_config(f'folder:{root}', holdout=0.0)).validation is None


def test_hold_out_properties():
  rng = np.random.default_rng(0)
  for seed in range(30):
    strata = rng.integers(0, rng.integers(1, 20), rng.integers(1, 200))
    share = rng.uniform(0.05, 0.95)
    held = hold_out(strata, share, seed)
    counts, kept = np.bincount(strata), np.bincount(strata[~held], minlength=strata.max() + 1)
    assert ((kept >= 1) == (counts >= 1)).all()
    assert (np.abs(counts - kept - share * counts) <= 1 + 1e-9).all()
    room = (np.maximum(counts, 1) - 1).sum()
    assert held.sum() <= max(1, int(share * len(strata) + 0.5))
    assert held.any() == (room > 0)


def test_bad_folders(make_folder, tmp_path):
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
  assert 'keep one' in message(make_folder({'train/a': 1, 'val/a': 1, 'validation/a': 1}, 'e'))


@pytest.mark.parametrize('form', ['', 'folder', 'folder:', 'tfds:', 'store', 'imagenet', 'elpv:x'])
def test_unknown_forms(form):
  with pytest.raises(UserError, match='folder:PATH, tfds:NAME, store:PATH, elpv, synthetic'):
    open_source(make_config(form))


@pytest.mark.parametrize('share', [-0.1, 1.0])
def test_bad_holdout(share):
  with pytest.raises(UserError, match=r'config\.data\.holdout'):
    open_source(make_config(holdout=share))


def test_elpv():
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


def test_missing_package_names_the_remedy(monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'elpv_dataset', None)
  with pytest.raises(UserError, match='pip install elpv-dataset'):
    open_source(make_config('elpv'))


def test_synthetic():
  first, second = (open_source(make_config()) for _ in range(2))
  assert (len(first.train), len(first.validation), len(first.class_names)) == (21, 7, 3)
  chex.assert_trees_all_equal(first.train.read(5), second.train.read(5))
  assert (first.train.read(0) != first.validation.read(0)).any()
  assert (first.train.read(0) != open_source(make_config(split_seed=1)).train.read(0)).any()
  chex.assert_shape(first.train.read(0), (24, 24, 3))
  assert first.train.read(0).dtype == np.uint8
  # Learnable: the mean colour of an image tells its class.
  colour = np.array([first.train.read(i).mean((0, 1)) for i in range(21)])
  means = np.array([colour[first.train.labels == c].mean(0) for c in range(3)])
  nearest = np.argmin(((colour[:, None] - means) ** 2).sum(-1), axis=1)
  chex.assert_trees_all_equal(nearest.astype(np.int32), first.train.labels)


@pytest.fixture(scope='module')
def tfds_dir(tmp_path_factory):
  """A folder with the TFDS sets `records_array` (three splits) and `records_tf` (train only)."""
  tfds = pytest.importorskip('tensorflow_datasets')
  folder = tmp_path_factory.mktemp('tfds')
  features = tfds.features.FeaturesDict(
    {
      'file': tfds.features.Text(),
      'kind': tfds.features.ClassLabel(names=['ant', 'bee']),
      'picture': tfds.features.Image(shape=(None, None, 3), encoding_format='jpeg'),
    }
  )

  def examples(first, number):
    for i in range(first, first + number):
      yield i, {'file': str(i), 'kind': i % 2, 'picture': encode(photo(i))}

  for name, form in (('records_array', 'array_record'), ('records_tf', 'tfrecord')):
    splits = {'train': list(examples(0, 12))}
    if form == 'array_record':
      splits |= {'test': list(examples(12, 4)), 'validation': list(examples(16, 3))}
    tfds.dataset_builders.store_as_tfds_dataset(
      name, '1.0.0', features, splits, data_dir=folder, file_format=form
    )
  return folder


@pytest.mark.parametrize('name', ['records_array', 'records_array:1.0.0', 'records_tf'])
def test_tfds(tfds_dir, name):
  for _ in range(2):  # the second time the labels come from the file that the first one left
    source = open_source(make_config(f'tfds:{name}', data_dir=str(tfds_dir)))
    assert source.class_names == ('ant', 'bee')
    held_out = 1 if name == 'records_tf' else 0
    assert len(source.train) == 12 - held_out
    assert len(source.validation) == (held_out or 3)
    known = {encode(photo(i)): i % 2 for i in range(12)}
    found = {source.train.read(i): source.train.labels[i] for i in range(len(source.train))}
    assert len(found) == len(source.train)
    assert all(known[data] == label for data, label in found.items())


def test_bad_tfds(tfds_dir):
  with pytest.raises(UserError, match='TFDS has no such data set'):
    open_source(make_config('tfds:no_such_set', data_dir=str(tfds_dir)))
  with pytest.raises(UserError, match=r'could not be prepared.*config\.data\.data_dir') as raised:
    open_source(make_config('tfds:imagenet2012', data_dir=str(tfds_dir)))
  assert '\n' not in str(raised.value)


def test_tfrecord_is_copied_into_a_store_once(tfds_dir, caplog):
  config = make_config('tfds:records_tf', data_dir=str(tfds_dir), cache_mib=0)
  for made in (True, False):
    caplog.clear()
    source = open_source(config)
    assert ('copied once into the store' in caplog.text) == made
    assert len(source.train) + len(source.validation) == 12
    canvas = Canvas(24, max_pixels=10**6)
    known = [decode_canvas(encode(photo(i)), canvas).astype(int) for i in range(12)]
    seen = set()
    for split in (source.train, source.validation):
      for i, label in enumerate(split.labels):
        out = np.zeros((24, 24, 3), np.uint8)
        split.fill(i, out)
        best = int(np.argmin([np.abs(out - image).mean() for image in known]))
        assert best % 2 == label
        seen.add(best)
    assert len(seen) == 12


def test_tfrecord_is_read_in_blocks_in_a_seeded_order(tfds_dir, monkeypatch):
  monkeypatch.setattr('alexnet_jax.data.tfds.BLOCK', 5)
  config = make_config('tfds:records_tf', data_dir=str(tfds_dir), cache_mib=0, shuffle='buffer')
  source = open_source(config)
  known = {encode(photo(i)): i % 2 for i in range(12)}
  for split in (source.train, source.validation):
    assert split.sequential
    assert all(known[split.read(i)] == split.labels[i] for i in range(len(split)))
  data = open_dataset(config, 4)
  batches = list(itertools.islice(data.train_batches(0, 4), 11))  # four epochs of 11 images
  index = np.concatenate([batch['index'] for batch in batches]).reshape(4, 11)
  chex.assert_trees_all_equal(np.sort(index), np.tile(np.arange(11, dtype=np.int32), (4, 1)))
  assert len({tuple(epoch) for epoch in index}) == 4
  again = next(open_dataset(config, 4).train_batches(9, 4))
  chex.assert_trees_all_equal(again, batches[9])
