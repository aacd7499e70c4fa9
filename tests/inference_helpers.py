"""Images for the tests of alexnet_jax.inference, and a direct computation of probabilities."""

import jax
import numpy as np

from alexnet_jax import config as config_lib
from alexnet_jax import models
from alexnet_jax.data import Canvas, decode_canvas
from alexnet_jax.evaluation import loading

SIZES = {'a.jpg': (80, 90), 'b.png': (200, 72), 'deep/c.jpeg': (72, 72)}  # (height, width)


def reference_probabilities(workdir, paths, views):
  """Returns class names and the `probabilities` of files."""
  config = config_lib.load_workdir(workdir)
  config.mesh = (1, 1)
  trained = loading.load(workdir, 'best', config)
  canvas = Canvas.from_config(trained.config.data.canvas)
  canvases = [decode_canvas(path.read_bytes(), canvas) for path in paths]
  return trained.meta['class_names'], probabilities(trained, canvases, views)


def probabilities(trained, canvases, views):
  """Returns probabilities, float32 `[N, classes]`, computed by `module.apply` image by image.

  Args:
    trained: a network of the recipe `original`, which subtracts the centre of the mean image from every view.
    canvases: uint8 `[72, 72, 3]` each.
    views: 1 or 10.
  """
  module, mean = models.create(trained.config.model), np.asarray(trained.model.mean_image)
  apply = jax.jit(lambda p, x: jax.nn.softmax(module.apply({'params': p}, x, train=False)))
  params, rows = jax.device_get(trained.model.params), []
  for canvas in canvases:
    corners = ((0, 0), (0, 8), (4, 4), (8, 0), (8, 8)) if views == 10 else ((4, 4),)
    crops = [canvas[y : y + 64, x : x + 64].astype(np.float32) for y, x in corners]
    crops += [crop[:, ::-1] for crop in crops] if views == 10 else []
    batch = np.stack(crops) - mean[4:68, 4:68]
    rows.append(np.asarray(apply(params, batch)).mean(0))
  return np.stack(rows)
