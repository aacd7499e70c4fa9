"""A run with seven classes and a folder of images for the tests of alexnet_jax.inference."""

import helpers
from inference_helpers import SIZES
import numpy as np
from PIL import Image
import pytest
from tiny import tiny_config


@pytest.fixture(scope='session')
def workdir(tmp_path_factory):
  """A run with seven classes."""
  folder = tmp_path_factory.mktemp('run')
  helpers.untrained_run(tiny_config(data__synthetic__classes=7), folder)
  return folder


@pytest.fixture(scope='session')
def pictures(tmp_path_factory):
  """A folder with three images, a damaged image, an empty file and a text file."""
  folder = tmp_path_factory.mktemp('pictures')
  (folder / 'deep').mkdir()
  rng = np.random.default_rng(0)
  for name, size in SIZES.items():
    Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / name)
  (folder / 'broken.jpg').write_bytes((folder / 'a.jpg').read_bytes()[:300])
  (folder / 'empty.png').write_bytes(b'')
  (folder / 'notes.txt').write_text('no image')
  return folder
