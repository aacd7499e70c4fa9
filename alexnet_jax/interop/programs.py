"""Programs for serving: uint8 canvases in, probabilities out, with preprocessing and weights inside.

StableHLO is written by `jax.export`, for any batch size, and runs on the CPU, CUDA and TPUs; read it back
with `jax.export.deserialize(bytes).call(canvases)`.
"""

from collections.abc import Callable
import json
import pathlib

import jax
from jax import export
import jax.numpy as jnp
from ml_collections import FrozenConfigDict
import numpy as np

from alexnet_jax import augment, models
from alexnet_jax.evaluate import Trained

_PLATFORMS = ('cpu', 'cuda', 'tpu')


def serving_function(config: FrozenConfigDict) -> Callable:
  """`f(variables, mean_image, canvases) -> probabilities`, one device, any batch size, symbolic ones too.

  Args:
    config: of the network; `eval.views` of `augment.VIEWS` are averaged.

  Returns:
    A function of `{'params', 'batch_stats'}`, float32 `[C, C, 3]` and uint8 `[B, C, C, 3]` that gives
    float32 `[B, classes]`.
  """
  module = models.create(config.model)
  views = jnp.asarray(augment.VIEWS[config.eval.views], jnp.float32)

  def serve(variables, mean_image, canvases):
    def one(canvas):
      def probabilities(view):
        images = augment.test_images(canvas[None], view, mean_image, config)
        return jax.nn.softmax(module.apply(variables, images, train=False))[0]

      return jax.lax.map(probabilities, views).mean(0)

    return jax.vmap(one)(canvases)

  return serve


def export_program(trained: Trained, form: str, output: str) -> dict[str, object]:
  """Writes the program of a network, and beside it a description in JSON.

  Args:
    trained: the network, on one device.
    form: stablehlo or savedmodel.
    output: the file, or for savedmodel the folder.

  Returns:
    `{'views', 'description'}`: how many views are averaged; where the description lies.

  Raises:
    UserError: savedmodel, and TensorFlow is not installed.
  """
  config, size = trained.config, trained.config.data.canvas.size
  constants = (
    {'params': trained.model.params, 'batch_stats': trained.model.batch_stats},
    trained.model.mean_image,
  )
  constants = jax.tree.map(np.asarray, jax.device_get(constants))
  function = serving_function(config)
  description = {
    'input': {'name': 'images', 'dtype': 'uint8', 'shape': ['batch', size, size, 3]},
    'output': {'name': 'probabilities', 'dtype': 'float32', 'shape': ['batch', 'classes']},
    'canvas': config.data.canvas.to_dict(),  # how a photograph becomes an input
    'views': config.eval.views,
    'recipe': config.recipe,
    'checkpoint': trained.step,
    'classes': trained.meta['class_names'],
  }
  _WRITERS[form](function, constants, size, output)
  place = pathlib.Path(output)
  path = place / 'alexnet_jax.json' if place.is_dir() else pathlib.Path(f'{output}.json')
  path.write_text(json.dumps(description, indent=2))
  return {'views': config.eval.views, 'description': str(path)}


def _write_stablehlo(function: Callable, constants: tuple, size: int, output: str) -> None:
  (batch,) = export.symbolic_shape('batch')
  canvases = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)
  program = jax.jit(lambda images: function(*constants, images))
  exported = export.export(program, platforms=_PLATFORMS)(canvases)
  pathlib.Path(output).write_bytes(exported.serialize())


_WRITERS = {'stablehlo': _write_stablehlo}
