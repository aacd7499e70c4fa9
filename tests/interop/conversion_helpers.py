"""What the tests of conversions share."""

import os
import pathlib

import numpy as np


def photographs(count: int, size: int) -> np.ndarray:
  """Canvases of real images where `ALEXNET_JAX_DATA` names a folder of them, else of coloured waves.

  float32 RGB in grey levels less 110, `[N, size, size, 3]`.
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
