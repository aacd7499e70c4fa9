"""Exported programs, run: the same probabilities as the live network, for any number of canvases."""

import json
import pathlib

import helpers
import jax
import numpy as np
import pytest
from tiny import tiny_config

from alexnet_jax import config as config_lib
from alexnet_jax import evaluate
from alexnet_jax.interop import networks

VIEWS = {'original': 10, 'torchvision': 1, 'caffe': 1}


@pytest.fixture(scope='module')
def canvases():
  return np.random.default_rng(0).integers(0, 256, (5, 72, 72, 3), np.uint8)


@pytest.fixture(scope='module', params=VIEWS)
def network(request, tmp_path_factory):
  """A run, and how many views its programs shall average."""
  folder = tmp_path_factory.mktemp('run')
  helpers.untrained_run(tiny_config(request.param, data__synthetic__classes=7), folder)
  return folder, VIEWS[request.param]


def live(workdir, canvases, views):
  """Probabilities `[B, classes]` of the step that eval and predict run."""
  config = config_lib.load_workdir(workdir)
  config.mesh, config.eval.views = (1, 1), views
  model = evaluate.load(workdir, 'best', config).model
  return np.asarray(model.predict(model.params, model.batch_stats, canvases, model.mean_image))


def export(workdir, form, output, views):
  config = config_lib.load_workdir(workdir)
  config.eval.views = views
  result = networks.export_network(config, str(workdir), form, str(output))
  description = json.loads(pathlib.Path(result['description']).read_text())
  assert description['views'] == result['views'] == views and len(description['classes']) == 7
  assert description['input']['shape'] == ['batch', 72, 72, 3] and result['bytes'] > 10_000
  return result


def test_stablehlo(network, canvases, tmp_path):
  workdir, views = network
  export(workdir, 'stablehlo', tmp_path / 'net.stablehlo', views)
  program = jax.export.deserialize((tmp_path / 'net.stablehlo').read_bytes())
  assert set(program.platforms) == {'cpu', 'cuda', 'tpu'}
  expected = live(workdir, canvases, views)
  assert np.ptp(expected) > 0.1  # what is compared is no constant
  for n in (1, 5):
    np.testing.assert_allclose(program.call(canvases[:n]), expected[:n], rtol=0, atol=1e-5)
