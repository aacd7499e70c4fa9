"""TensorFlow Datasets (TFDS) can open a store."""

import os

import chex
from data_helpers import make_config, make_store_config
import numpy as np
import pytest

from alexnet_jax.data import decode_canvas
from alexnet_jax.data.decode import Canvas
from alexnet_jax.data.prepare import prepare
from alexnet_jax.data.sources import open_source

FORMATS = pytest.mark.parametrize('form', ['jpeg', 'raw'])
CANVAS = Canvas(24, max_pixels=10**6)


def test_names_that_are_not_utf8_are_valid_text_for_tfds(make_folder, tmp_path):
  tfds = pytest.importorskip('tensorflow_datasets')
  one, other = os.fsdecode(b'caf\xe9'), os.fsdecode(b'caf\xea')
  root = make_folder({'train/b': 3, f'train/{one}': 3, f'train/{other}': 3})
  output = str(tmp_path / 'store')
  prepare(make_store_config(f'folder:{root}'), output)
  labels = tfds.builder_from_directory(output).info.features['label']
  assert labels.names == ['b', r'caf\xe9', r'caf\xea']
  assert open_source(make_config(f'store:{output}')).class_names == ('b', one, other)


@FORMATS
def test_tfds_reads_the_same_images_and_labels(make_folder, tmp_path, form):
  tfds = pytest.importorskip('tensorflow_datasets')
  root = make_folder({'train/ä': 7, 'train/b c': 6, 'val/ä': 2})
  output = str(tmp_path / 'store')
  result = prepare(make_store_config(f'folder:{root}', format=form, subsampling='444'), output)
  assert result['images'] == {'train': 13, 'validation': 2} and result['shards_left'] == 0
  builder = tfds.builder_from_directory(output)
  assert builder.info.features['label'].names == ['b c', 'ä']
  source = open_source(make_config(f'store:{output}'))
  files = set()
  for name, split in (('train', source.train), ('validation', source.validation)):
    records = builder.as_data_source(name)
    assert len(records) == len(split)
    for i, record in enumerate(records):
      assert record['label'] == split.labels[i]
      ours = np.zeros((24, 24, 3), np.uint8)
      split.fill(i, ours)
      # TFDS decodes JPEG files with another library.
      chex.assert_trees_all_close(record['image'].astype(int), ours.astype(int), atol=3)
      file = root / record['file_name'].decode()
      assert file.parent.name == ['b c', 'ä'][record['label']]
      expected = decode_canvas(file.read_bytes(), CANVAS)
      if form == 'raw':
        chex.assert_trees_all_equal(ours, expected)
        chex.assert_trees_all_equal(split.read(i), expected)
      else:
        assert np.abs(ours.astype(int) - expected).mean() < 3
        assert split.read(i)[:2] == b'\xff\xd8'
      files.add(file)
  assert len(files) == 15
