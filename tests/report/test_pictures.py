"""Pictures of images have their names, their classes and a suitable layout."""

import contextlib
import pathlib
import types

import numpy as np
import pytest
from tiny import tiny_config

from alexnet_jax.data import open_dataset
from alexnet_jax.report import mistakes, pictures


@pytest.mark.parametrize('number', range(1, 25))
def test_no_card_is_alone_in_the_last_row(number):
  """It holds for the columns of a wide page; one image alone cannot have company."""
  columns = pictures.columns(number)
  assert 2 <= columns <= 5
  assert number == 1 or number % columns != 1
  assert pictures.columns(8) == 4


def test_names_of_files_begin_below_the_folder():
  dataset = types.SimpleNamespace(name=lambda split, i: str(pathlib.Path.home() / 'photos/a/1.jpg'))
  assert pictures.Pictures(dataset, 'folder:~/photos', ['a']).name('train', 0) == 'a/1.jpg'


def test_cards():
  """A card has the most probable classes and its own; classes without probability are left out."""
  config = tiny_config(data__synthetic__classes=8)
  with contextlib.closing(open_dataset(config.data, 0)) as dataset:
    made = pictures.Pictures(dataset, 'folder:synthetic/', [f'name {k}' for k in range(8)])
    unsure = np.array([0.4, 0.3, 0.1, 0.09, 0.06, 0.05, 0, 0])
    best, top = np.tile(np.arange(5), (2, 1)), np.stack([unsure[:5], np.eye(8)[0, :5]])
    labels, own = np.array([6, 0]), np.array([0.0, 1.0])
    predictions = mistakes.Predictions(labels, np.array([3, 3]), own, best, top)
    card = made.card(predictions, 0)
    assert card['file'] == dataset.name('validation', 3).removeprefix('synthetic/')
    assert card['alt'] == f'validation image {card["file"]}: name 6'
    assert [bar['label'][-1] for bar in card['bars']] == ['0', '1', '2', '3', '6']
    assert [bar['right'] for bar in card['bars']] == [False] * 4 + [True] and not card['is_right']
    sure = made.card(predictions, 1)
    assert len(sure['bars']) == 2 and sure['is_right'] and sure['loss'] == 0
    assert sure['src'].startswith('data:image/jpeg') and not sure['is_small']


def test_pictures_of_kernels():
  """There is one picture of at least 480 pixels for each tower."""
  first, second = pictures.of_kernels(np.random.default_rng(0).normal(size=(2, 5, 5, 3, 4)))
  assert first['alt'] == '4 kernels of 5x5 pixels, tower 1' and first['src'] != second['src']
  (alone,) = pictures.of_kernels(np.zeros((1, 5, 5, 1, 4)))
  assert alone['alt'] == '4 kernels of 5x5 pixels'
