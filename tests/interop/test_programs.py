"""Exported programs give the same probabilities as the network.

If `ALEXNET_JAX_DATA` and `ALEXNET_JAX_WIDTH` are set, the tests use a hundred photographs from this folder
and networks of this width.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

from conversion_helpers import photographs
import helpers
import jax
import numpy as np
import pytest
from tiny import tiny_config

from alexnet_jax import config as config_lib
from alexnet_jax.config import recipes
from alexnet_jax.evaluation import loading
from alexnet_jax.interop import exporter

VIEWS = {'original': 10, 'torchvision': 1, 'caffe': 1}
WIDTH = float(os.environ.get('ALEXNET_JAX_WIDTH', '0'))
CLASSES, SIZE = (50, 256) if WIDTH else (7, 72)


@pytest.fixture(scope='module')
def canvases():
  if 'ALEXNET_JAX_DATA' in os.environ:
    return (photographs(100, SIZE) + 110).astype(np.uint8)
  return np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)


def make_run(variant, folder):
  """Writes a run of a recipe to `folder`, with a tiny network or one of the width `ALEXNET_JAX_WIDTH`."""
  config = tiny_config(variant, data__synthetic__classes=CLASSES)
  if WIDTH:
    values = {'data.source': 'synthetic', 'data.synthetic': config.data.synthetic, 'mesh': (1, 1)}
    config = recipes.apply(recipes.get(variant), values | {'model.width': WIDTH})
  helpers.untrained_run(config, folder)


@pytest.fixture(scope='module', params=VIEWS)
def network(request, tmp_path_factory):
  """A run, and the number of views that its program averages."""
  folder = tmp_path_factory.mktemp('run')
  make_run(request.param, folder)
  return folder, VIEWS[request.param]


def network_probabilities(workdir, canvases, views):
  """Returns the probabilities `[B, classes]` from the compiled step of evaluation and prediction."""
  config = config_lib.load_workdir(workdir)
  config.mesh, config.eval.views = (1, 1), views
  model = loading.load(workdir, 'best', config).model
  return np.asarray(model.predict(model.params, model.batch_stats, canvases, model.mean_image))


def export(workdir, form, output, views):
  config = config_lib.load_workdir(workdir)
  config.eval.views = views
  result = exporter.export_network(config, str(workdir), form, str(output))
  description = json.loads(pathlib.Path(result['description']).read_text())
  assert description['views'] == result['views'] == views and len(description['classes']) == CLASSES
  assert description['input']['shape'] == ['batch', SIZE, SIZE, 3] and result['bytes'] > 10_000
  return result


def assert_same(found, expected):
  """Checks that probabilities p agree within 1e-5, or 1e-5 (1 + p) at full size; prints the difference."""
  print(
    f'{len(found)} images: probabilities differ by at most {np.abs(found - expected).max():.1e}'
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5 if WIDTH else 0, atol=1e-5)


def test_stablehlo_programs_agree_with_the_network(network, canvases, tmp_path):
  workdir, views = network
  export(workdir, 'stablehlo', tmp_path / 'net.stablehlo', views)
  program = jax.export.deserialize((tmp_path / 'net.stablehlo').read_bytes())
  assert set(program.platforms) == {'cpu', 'cuda', 'tpu'}
  # The fast layers of a CPU, which compute convolutions as other products, are not part of it.
  assert len(re.findall(r'stablehlo\.convolution', program.mlir_module())) >= 5
  expected = network_probabilities(workdir, canvases, views)
  assert np.ptp(expected) > 0.1  # the probabilities are not constant
  for n in (1, len(canvases)):
    assert_same(program.call(canvases[:n]), expected[:n])


@pytest.mark.long
def test_savedmodel_runs_without_jax(canvases, tmp_path):
  workdir, views = tmp_path / 'run', 10
  make_run('original', workdir)
  result = export(workdir, 'savedmodel', tmp_path / 'net', views)
  assert result['description'] == str(tmp_path / 'net' / 'alexnet_jax.json')
  np.save(tmp_path / 'canvases.npy', canvases)
  code = (
    'import sys\nsys.modules["jax"] = sys.modules["alexnet_jax"] = None\n'
    'import numpy as np, tensorflow as tf\n'
    f'f = tf.saved_model.load({str(tmp_path / "net")!r}).signatures["serving_default"]\n'
    f'x = np.load({str(tmp_path / "canvases.npy")!r})\n'
    'one, all = (f(images=tf.constant(x[:n]))["probabilities"].numpy() for n in (1, len(x)))\n'
    f'np.savez({str(tmp_path / "out.npz")!r}, one=one, all=all)'
  )
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  expected = network_probabilities(workdir, canvases, views)
  with np.load(tmp_path / 'out.npz') as found:
    assert_same(found['all'], expected)
    assert_same(found['one'], expected[:1])
