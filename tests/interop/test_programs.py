"""Exported programs, run: the same probabilities as the live network, for any number of canvases."""

import json
import pathlib
import subprocess
import sys

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


def test_savedmodel_runs_without_jax(canvases, tmp_path):
  workdir, views = tmp_path / 'run', 10
  helpers.untrained_run(tiny_config('original', data__synthetic__classes=7), workdir)
  result = export(workdir, 'savedmodel', tmp_path / 'net', views)
  assert result['description'] == str(tmp_path / 'net' / 'alexnet_jax.json')
  np.save(tmp_path / 'canvases.npy', canvases)
  code = (
    'import sys\nsys.modules["jax"] = sys.modules["alexnet_jax"] = None\n'
    'import numpy as np, tensorflow as tf\n'
    f'f = tf.saved_model.load({str(tmp_path / "net")!r}).signatures["serving_default"]\n'
    f'x = np.load({str(tmp_path / "canvases.npy")!r})\n'
    'one, all = (f(images=tf.constant(x[:n]))["probabilities"].numpy() for n in (1, 5))\n'
    f'np.savez({str(tmp_path / "out.npz")!r}, one=one, all=all)'
  )
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  expected = live(workdir, canvases, views)
  with np.load(tmp_path / 'out.npz') as found:
    np.testing.assert_allclose(found['all'], expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found['one'], expected[:1], rtol=0, atol=1e-5)
