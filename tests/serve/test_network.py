"""The network of the server: its kernels, features and examples, and its answers for single images."""

import base64
import concurrent.futures
import io

import helpers
import numpy as np
from PIL import Image
import pytest
from serve_helpers import MARKUP_NAME

import alexnet_jax
from alexnet_jax import config as config_lib
from alexnet_jax.data import open_dataset
from alexnet_jax.errors import RunError, UserError
from alexnet_jax.serve import examples
from alexnet_jax.serve import network as network_lib
from alexnet_jax.serve.network import Features, Network


def pixels_of(png):
  with Image.open(io.BytesIO(png)) as picture:
    return np.asarray(picture)


def test_each_tower_has_a_picture_of_its_kernels(run, network):
  params = helpers.visible_params(config_lib.load_workdir(run / 'run').model)
  for tower in (0, 1):
    kernel = params['conv1']['kernel'][tower, :, :, :, 2]  # the last of three
    grey = 127.5 + 127.5 * kernel / np.abs(kernel).max()
    tile = pixels_of(network.kernels(tower))[1:12, 25:36]
    np.testing.assert_allclose(tile, grey, atol=1)
  with pytest.raises(IndexError):
    network.kernels(2)


def test_each_tower_has_a_picture_of_its_activations(run, network):
  canvas = network.decode((run / 'images' / '2.png').read_bytes())
  answer = network.classify(canvas, with_activations=True)
  assert 'activations' not in network.classify(canvas)
  classifier = alexnet_jax.load(run / 'run')
  maps = classifier.features(canvas, 'conv1')  # [7, 7, 6]: three maps of each tower
  side = maps.shape[0]
  assert len(answer['activations']) == 2
  for tower, url in enumerate(answer['activations']):
    kind, _, data = url.partition(',')
    assert kind == 'data:image/png;base64'
    own = maps[:, :, 3 * tower + 1]
    grey = 255 * (own - own.min()) / (own.max() - own.min())
    left = side + 2
    tile = pixels_of(base64.b64decode(data))[1 : 1 + side, left : left + side]
    np.testing.assert_allclose(tile, np.repeat(grey[:, :, None], 3, 2), atol=1)


@pytest.mark.parametrize(
  ('first', 'second', 'unsure'),
  [
    (0.61, 0.39, False),
    (0.59, 0.41, True),  # the margin is below 0.2
    (0.51, 0.30, False),
    (0.52, 0.33, True),
    (0.49, 0.01, True),  # below 0.5
    (1.0, 0.0, False),
  ],
)
def test_answers_with_a_low_probability_or_a_small_margin_are_unsure(first, second, unsure):
  top = [{'label': 'a', 'probability': first}, {'label': 'b', 'probability': second}]
  assert network_lib.is_unsure(top) == unsure


def test_answers_and_the_description_follow_the_rule(run, network, monkeypatch):
  canvas = network.decode((run / 'images' / '2.png').read_bytes())
  monkeypatch.setattr(network_lib, 'UNSURE_PROBABILITY', 0.0)
  monkeypatch.setattr(network_lib, 'UNSURE_MARGIN', 0.0)
  assert network.about()['unsure'] == {'probability': 0.0, 'margin': 0.0}
  assert not network.classify(canvas)['unsure']
  monkeypatch.setattr(network_lib, 'UNSURE_PROBABILITY', 1.1)
  assert network.classify(canvas)['unsure']


def test_neighbours_have_the_class_that_their_folder_is_named_after(
  run, network, tmp_path, monkeypatch
):
  with np.load(run / 'x.npz') as file:
    arrays = dict(file)
  arrays['paths'] = np.asarray(
    [f'/photos/{"class2" if i < 4 else "other"}/{i}.png' for i in range(8)]
  )
  np.savez(tmp_path / 'x.npz', **arrays)
  features = Features(str(tmp_path / 'x.npz'), network._trained)
  monkeypatch.setattr(network, 'features', features)
  near = network.classify(np.zeros((72, 72, 3), np.uint8))['neighbours']
  assert {one['label'] for one in near} == {'class2', None}
  assert all((one['label'] == 'class2') == (one['index'] < 4) for one in near)


def test_examples_are_offered_without_loss(run, network):
  described = network.about()['examples']
  dataset = open_dataset(config_lib.load_workdir(run / 'run').data, 0)
  rows = examples.choose(dataset.validation_labels, 20)
  names = [f'class{k}' for k in dataset.validation_labels[rows]]
  assert [example['label'] for example in described] == names
  expected = dataset.canvases('validation', rows)
  for example, canvas in zip(described, expected, strict=True):
    np.testing.assert_array_equal(network.decode(network.example(example['index'])), canvas)
  with pytest.raises(IndexError):
    network.example(len(described))


def progressive(scans):
  """Returns a progressive JPEG whose last scan is repeated until there are `scans`."""
  file = io.BytesIO()
  Image.new('L', (80, 80)).save(file, 'JPEG', progressive=True)
  head, marker, last = file.getvalue().rpartition(b'\xff\xda')
  end = b'\xff\xd9'
  return head + (marker + last.removesuffix(end)) * (scans - head.count(marker)) + end


def test_a_jpeg_of_many_scans_is_refused(network):
  """Markers of scans in a comment or after the image do not count."""
  assert network.decode(progressive(50)).shape == (72, 72, 3)
  for scans in (51, 5000):
    with pytest.raises(ValueError, match='a JPEG of more than 50 scans: save it again'):
      network.decode(progressive(scans))
  data, markers = progressive(10), b'\xff\xda' * 60
  comment = b'\xff\xfe' + (2 + len(markers)).to_bytes(2) + markers
  assert network.decode(data[:2] + comment + data[2:] + markers).shape == (72, 72, 3)


def test_answers_do_not_depend_on_other_threads(run, network):
  paths = [run / 'images' / (MARKUP_NAME if i == 3 else f'{i}.png') for i in range(8)]
  canvases = [network.decode(path.read_bytes()) for path in paths]
  alone = [network.classify(canvas) for canvas in canvases]
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    assert list(pool.map(network.classify, canvases * 2)) == alone * 2
  assert [answer['neighbours'][0]['index'] for answer in alone] == [
    network.features.paths.index(str(path)) for path in paths
  ]


def test_probabilities_that_are_not_finite_are_an_error(network, monkeypatch):
  monkeypatch.setattr(network._classifier, 'classify', lambda image: np.full((1, 7), np.nan))
  with pytest.raises(RunError, match='not finite'):
    network.classify(np.zeros((72, 72, 3), np.uint8))


def test_a_network_without_features(run):
  network = Network(config_lib.load_workdir(run / 'run'), run / 'run')
  answer = network.classify(np.zeros((72, 72, 3), np.uint8))
  assert answer['neighbours'] == [] and len(answer['top']) == 5
  assert network.about()['neighbours_among'] == 0
  with pytest.raises(IndexError):
    network.neighbour(0)


def test_damaged_features_are_refused(tmp_path):
  (tmp_path / 'x.npz').write_bytes(b'PK\x03\x04 damaged')
  np.save(tmp_path / 'x.npy', np.zeros(3))
  for name in ('x.npz', 'x.npy'):
    with pytest.raises(UserError, match='cannot be read'):
      Features(str(tmp_path / name), None)


def test_features_of_another_network_are_refused(run, tmp_path):
  config = config_lib.load_workdir(run / 'run')
  with np.load(run / 'x.npz') as file:
    arrays = dict(file)
  for name, message in (('network', 'another network'), ('checkpoint', 'belongs to checkpoint')):
    np.savez(tmp_path / 'x.npz', **(arrays | {name: arrays[name] + 1}))
    with pytest.raises(UserError, match=message):
      Network(config, run / 'run', features=str(tmp_path / 'x.npz'))
