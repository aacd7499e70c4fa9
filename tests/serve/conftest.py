"""A run, images and their features for the tests of alexnet_jax.serve."""

import helpers
import numpy as np
from PIL import Image
import pytest
from serve_helpers import MARKUP_NAME
from tiny import tiny_config

from alexnet_jax import config as config_lib
from alexnet_jax.inference import features as features_lib


@pytest.fixture(scope='session')
def run(tmp_path_factory):
  """A folder with a workdir, eight images, and the features of the images."""
  folder = tmp_path_factory.mktemp('serve')
  helpers.untrained_run(tiny_config(data__synthetic__classes=7), folder / 'run')
  rng = np.random.default_rng(0)
  (folder / 'images').mkdir()
  for i in range(8):
    pixels = np.repeat(np.repeat(rng.integers(0, 256, (8, 8, 3), np.uint8), 12, 0), 12, 1)
    Image.fromarray(pixels).save(folder / 'images' / (MARKUP_NAME if i == 3 else f'{i}.png'))
  config = config_lib.load_workdir(folder / 'run')
  features = str(folder / 'x.npz')
  features_lib.features(config, folder / 'run', 'fc7', features, [str(folder / 'images')])
  return folder
