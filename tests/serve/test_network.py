"""The network of the server: its kernels, its features, and its answers for single images."""

import concurrent.futures
import io

import helpers
import numpy as np
from PIL import Image
import pytest
from serve_helpers import MARKUP_NAME

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError
from alexnet_jax.serve.network import Features, Network


@pytest.fixture(scope='module')
def network(run):
  config = config_lib.load_workdir(run / 'run')
  return Network(config, run / 'run', features=str(run / 'x.npz'))


def test_the_picture_of_kernels_shows_both_towers(run, network):
  with Image.open(io.BytesIO(network.kernels())) as picture:
    pixels = np.asarray(picture)
  params = helpers.visible_params(config_lib.load_workdir(run / 'run').model)
  # This is the first kernel of the second tower. In the picture, three kernels of the first tower precede it.
  kernel = params['conv1']['kernel'][1, :, :, :, 0]
  grey = np.round(255 * (0.5 + 0.5 * kernel / np.abs(kernel).max()))
  tile = pixels[:55:5, 3 * 60 : 3 * 60 + 55 : 5]
  np.testing.assert_allclose(tile, grey, atol=1)


def test_answers_do_not_depend_on_other_threads(run, network):
  paths = [run / 'images' / (MARKUP_NAME if i == 3 else f'{i}.png') for i in range(8)]
  canvases = [network.decode(path.read_bytes()) for path in paths]
  alone = [network.classify(canvas) for canvas in canvases]
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    assert list(pool.map(network.classify, canvases * 2)) == alone * 2
  assert [answer['neighbours'][0]['index'] for answer in alone] == [
    network.features.paths.index(str(path)) for path in paths
  ]


def test_a_network_without_features(run):
  network = Network(config_lib.load_workdir(run / 'run'), run / 'run')
  answer = network.classify(np.zeros((72, 72, 3), np.uint8))
  assert answer['neighbours'] == [] and len(answer['top']) == 5
  assert network.about()['neighbours_among'] == 0
  with pytest.raises(IndexError):
    network.neighbour(0)


def test_damaged_features_are_refused(tmp_path):
  (tmp_path / 'x.npz').write_bytes(b'PK\x03\x04 damaged')
  with pytest.raises(UserError, match='cannot be read'):
    Features(str(tmp_path / 'x.npz'), 0)
