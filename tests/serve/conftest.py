"""A run, images and their features for the tests of alexnet_jax.serve."""

import helpers
import numpy as np
from PIL import Image
import pytest
from serve_helpers import MARKUP_NAME, MIB
from starlette.testclient import TestClient
from tiny import tiny_config

from alexnet_jax import config as config_lib
from alexnet_jax.inference import features as features_lib
from alexnet_jax.serve import app
from alexnet_jax.serve.network import Network


@pytest.fixture(scope='session')
def run(tmp_path_factory):
  """A folder with a workdir, eight images, and the features of the images."""
  folder = tmp_path_factory.mktemp('serve')
  few = {'model__layers': ('conv1', 'fc7', 'fc8')}
  helpers.untrained_run(tiny_config(data__synthetic__classes=7, **few), folder / 'run')
  rng = np.random.default_rng(0)
  (folder / 'images').mkdir()
  for i in range(8):
    pixels = np.repeat(np.repeat(rng.integers(0, 256, (8, 8, 3), np.uint8), 12, 0), 12, 1)
    Image.fromarray(pixels).save(folder / 'images' / (MARKUP_NAME if i == 3 else f'{i}.png'))
  config = config_lib.load_workdir(folder / 'run')
  features = str(folder / 'x.npz')
  features_lib.features(config, folder / 'run', 'fc7', features, [str(folder / 'images')])
  return folder


@pytest.fixture(scope='session')
def network(run):
  """The network of the run, with the features of the images; it takes images of up to 40,000 pixels."""
  config = config_lib.load_workdir(run / 'run')
  config.serve.max_pixels = 200 * 200
  return Network(config, run / 'run', features=str(run / 'x.npz'))


@pytest.fixture(scope='session')
def client(network):
  """A client of the page about that network, which takes uploads of up to `MIB`."""
  return TestClient(app.create_app(network, MIB << 20, ['localhost']), 'http://localhost')
