"""Functions for the tests of conversions."""

import json
import os
import pathlib

import jax
import numpy as np

from alexnet_jax import config as config_lib
from alexnet_jax.cli import main as main_lib
from alexnet_jax.evaluation import loading


def photographs(count: int, size: int) -> np.ndarray:
  """Returns canvases of the photographs in `$ALEXNET_JAX_DATA`, or of coloured waves if it is not set.

  They are `[N, size, size, 3]`, float32 RGB in grey levels minus 110.
  """
  folder = os.environ.get('ALEXNET_JAX_DATA')
  if folder:
    from alexnet_jax.data import Canvas, decode_canvas

    paths = sorted(os.path.join(root, f) for root, _, files in os.walk(folder) for f in files)
    canvases = [decode_canvas(pathlib.Path(p).read_bytes(), Canvas(size)) for p in paths[:count]]
    return np.stack(canvases).astype(np.float32) - 110
  rng = np.random.default_rng(0)
  waves = rng.normal(0, 0.15, (count, 3, 6, 2)), rng.uniform(0, 6, (count, 3, 6, 1, 1))
  y, x = np.mgrid[:size, :size]
  angles = waves[0][..., 0, None, None] * y + waves[0][..., 1, None, None] * x + waves[1]
  return (40 * np.sin(angles).sum(2)).transpose(0, 2, 3, 1).astype(np.float32)


def assert_same(a, b):
  assert list(a) == list(b)
  for layer in a:
    assert list(a[layer]) == list(b[layer])
    for name in a[layer]:
      assert a[layer][name].dtype == np.float32
      np.testing.assert_array_equal(a[layer][name], b[layer][name], f'{layer} {name}')


def run(capsys, *args: str) -> dict:
  """Runs a command and returns its JSON output."""
  code = main_lib.main(args)
  out, err = capsys.readouterr()
  assert code == 0, err
  return json.loads(out.splitlines()[-1])


def fail(capsys, *args: str) -> str:
  """Runs a command that must fail with a user error, and returns the line of the error."""
  assert main_lib.main(args) == 2
  out, err = capsys.readouterr()
  (line,) = [line for line in err.splitlines() if line.startswith('error: ')]
  assert not out and 'Traceback' not in err
  return line


def trained(workdir, which='best') -> loading.Trained:
  config = config_lib.load_workdir(workdir)
  config.mesh = (1, 1)
  return loading.load(workdir, which, config)


def params_of(workdir) -> dict:
  return jax.device_get(trained(workdir).model.params)
