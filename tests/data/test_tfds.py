"""Data sets of TensorFlow Datasets (TFDS) in ArrayRecord and TFRecord files are read."""

import itertools

import chex
from data_helpers import encode, make_config, make_store_config, photo
import numpy as np
import pytest
from tiny import tiny_config

from alexnet_jax.data import decode_canvas, open_dataset
from alexnet_jax.data import tfds as tfds_lib
from alexnet_jax.data.decode import Canvas
from alexnet_jax.data.prepare import prepare
from alexnet_jax.data.sources import open_source
from alexnet_jax.errors import UserError
from alexnet_jax.training.dry_run import dry_run


@pytest.fixture(scope='module')
def tfds_dir(tmp_path_factory):
  """A folder with data sets of two or three splits, and one of training images only, `records_tf`."""
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

  for name, form, validation in (
    ('records_array', 'array_record', 'validation'),
    ('records_val', 'tfrecord', 'val'),
    ('records_test', 'array_record', 'test'),
    ('records_tf', 'tfrecord', None),
  ):
    splits = {'train': list(examples(0, 12))}
    if validation:
      splits |= {'test': list(examples(12, 4))} | {validation: list(examples(16, 3))}
    tfds.dataset_builders.store_as_tfds_dataset(
      name, '1.0.0', features, splits, data_dir=folder, file_format=form
    )
  return folder


@pytest.mark.parametrize(
  'name', ['records_array', 'records_array:1.0.0', 'records_val', 'records_test', 'records_tf']
)
def test_images_and_labels_of_tfds_are_read(tfds_dir, name):
  for _ in range(2):  # in the second round, labels are read from the cache file
    source = open_source(make_config(f'tfds:{name}', data_dir=str(tfds_dir)))
    assert source.class_names == ('ant', 'bee')
    held_out = 1 if name == 'records_tf' else 0
    assert len(source.train) == 12 - held_out
    assert len(source.validation) == (held_out or 3)
    known = {encode(photo(i)): i % 2 for i in range(12)}
    found = {source.train.read(i): source.train.labels[i] for i in range(len(source.train))}
    assert len(found) == len(source.train)
    assert all(known[data] == label for data, label in found.items())


def test_a_split_with_secret_labels_is_not_validated_on(tfds_dir, monkeypatch):
  labels = tfds_lib._cached_labels

  def secret(builder, split, *others):
    found = labels(builder, split, *others)
    return np.full_like(found, -1) if split == 'validation' else found

  monkeypatch.setattr(tfds_lib, '_cached_labels', secret)
  source = open_source(make_config('tfds:records_array', data_dir=str(tfds_dir)))
  assert len(source.validation) == 4  # those of the split `test`


def test_unavailable_tfds_data_sets_are_refused(tfds_dir):
  with pytest.raises(UserError, match='TFDS has no such data set'):
    open_source(make_config('tfds:no_such_set', data_dir=str(tfds_dir)))
  with pytest.raises(UserError, match=r'could not be prepared.*config\.data\.data_dir') as raised:
    open_source(make_config('tfds:imagenet2012', data_dir=str(tfds_dir)))
  assert '\n' not in str(raised.value)


def store_of(source):
  """Returns the name of the store that a source reads."""
  return source.train.name(0).rpartition('/')[0]


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
  config.holdout = 0.5  # another split is copied into another store
  source = open_source(config)
  assert len(source.train) == len(source.validation) == 6
  config.split_seed = 1
  other = open_source(config)
  assert len(other.train) == 6 and store_of(other) != store_of(source)


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


def test_tfrecord_is_prepared_from_its_own_images(tfds_dir, tmp_path):
  config = make_store_config('tfds:records_tf', data_dir=str(tfds_dir), cache_mib=0, format='raw')
  prepare(config, str(tmp_path / 'store'))
  source = open_source(make_config(f'store:{tmp_path / "store"}'))
  canvas = Canvas(24, max_pixels=10**6)
  known = {decode_canvas(encode(photo(i)), canvas).tobytes() for i in range(12)}
  splits = source.train, source.validation
  assert {split.read(i).tobytes() for split in splits for i in range(len(split))} == known


def test_a_copy_of_the_split_val_ignores_the_settings_of_held_out_images(tfds_dir):
  config = make_config('tfds:records_val', data_dir=str(tfds_dir), cache_mib=0)
  source = open_source(config)
  assert (len(source.train), len(source.validation)) == (12, 3)
  config.holdout = 0.5
  assert store_of(open_source(config)) == store_of(source)


def test_a_folder_of_tfrecord_that_cannot_be_written_is_refused_at_once(tfds_dir, monkeypatch):
  config = make_config('tfds:records_tf', data_dir=str(tfds_dir), cache_mib=0, split_seed=7)
  monkeypatch.setattr('os.access', lambda *arguments: False)
  with pytest.raises(UserError, match=r'cannot be written: set config\.data\.shuffle=buffer, or'):
    open_source(config)


@pytest.mark.long
def test_a_dry_run_copies_no_images(tfds_dir):
  few = {'model__layers': ('conv1', 'fc6', 'fc8')}
  source = {'data__source': 'tfds:records_tf', 'data__data_dir': str(tfds_dir)}
  assert dry_run(tiny_config(**few, **source))['train_images'] == 11
  assert not list(tfds_dir.glob('records_tf/*/alexnet_jax-72-*'))
