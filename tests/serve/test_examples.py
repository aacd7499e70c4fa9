"""The examples of the page are validation images of the run."""

import logging

from absl import logging as absl_logging
import numpy as np
from PIL import Image
import pytest
from tiny import tiny_config

from alexnet_jax.data import Canvas, decode_canvas, open_dataset
from alexnet_jax.serve import examples


def load(config, names):
  return examples.load(config, Canvas.from_config(config.data.canvas), names)


@pytest.mark.parametrize(
  ('classes', 'number', 'expected'),
  [(2, 20, [6, 6]), (5, 20, [4] * 5), (10, 20, [2] * 10), (3, 2, [1, 1]), (2, 0, [])],
)
def test_a_few_examples_of_each_class_are_chosen(classes, number, expected):
  labels = np.arange(60) % classes
  rows = examples.choose(labels, number)
  chosen = np.sort(labels[rows])
  assert np.unique(chosen, return_counts=True)[1].tolist() == expected
  assert len(set(rows)) == len(rows)
  assert rows.tolist() == examples.choose(labels, number).tolist()
  assert number < 20 or rows.tolist() != sorted(rows.tolist())  # they are not the first ones


def test_a_class_with_few_images_gives_all_of_them():
  rows = examples.choose(np.asarray([0, 1, 1, 1, 1]), 4)
  assert np.asarray([0, 1, 1, 1, 1])[rows].tolist() == [0, 1, 1] and rows[0] == 0
  assert examples.choose(np.zeros(0, int), 4).tolist() == []


def test_examples_are_canvases_of_the_validation_images():
  config = tiny_config()
  dataset = open_dataset(config.data, 0)
  found = load(config, dataset.class_names)
  rows = examples.choose(dataset.validation_labels, 20)
  assert [example.label for example in found] == dataset.validation_labels[rows].tolist()
  expected = dataset.canvases('validation', rows)
  np.testing.assert_array_equal([example.canvas for example in found], expected)


def test_an_unreadable_image_is_left_out(tmp_path, caplog):
  rng = np.random.default_rng(0)
  for split in ('train', 'val'):
    for name in ('a', 'b'):
      (tmp_path / split / name).mkdir(parents=True)
      image = Image.fromarray(rng.integers(0, 256, (80, 80, 3), np.uint8))
      image.save(tmp_path / split / name / '1.png')
  (tmp_path / 'val' / 'a' / '2.png').write_bytes(b'damaged')
  config = tiny_config(data__source=f'folder:{tmp_path}')
  with caplog.at_level(logging.WARNING):
    found = load(config, ('a', 'b'))
  assert [example.label for example in found] == [0, 1] and '2.png is no example' in caplog.text
  canvas = Canvas.from_config(config.data.canvas)
  expected = decode_canvas((tmp_path / 'val' / 'a' / '1.png').read_bytes(), canvas)
  np.testing.assert_array_equal(found[0].canvas, expected)


@pytest.mark.parametrize(
  ('changes', 'names', 'message'),
  [
    ({'data__source': 'folder:absent'}, ('a', 'b'), 'there is no such folder'),
    ({'data__source': 'tfds:mnist'}, ('a', 'b'), 'might have to be downloaded'),
    ({}, ('a', 'b'), 'other classes than the network'),
    ({'data__synthetic__validation': 0}, None, 'has no validation images'),
    ({'serve__examples': 0}, None, ''),
  ],
)
def test_without_such_images_there_are_no_examples(caplog, changes, names, message):
  config = tiny_config(**changes)
  names = names or open_dataset(config.data, 0).class_names
  absl_logging.set_verbosity(absl_logging.INFO)
  with caplog.at_level(logging.INFO):
    assert load(config, names) == []
  assert message in caplog.text and bool(message) == bool(caplog.text)
