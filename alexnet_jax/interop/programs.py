"""Programs for serving: from uint8 canvases to probabilities, with preprocessing and weights inside.

- `stablehlo`: written by `jax.export` for any batch size; it runs on CPUs, CUDA devices and TPUs. Read
  it with `jax.export.deserialize(bytes).call(canvases)`.
- `savedmodel`: a TensorFlow SavedModel with the same program around its own variables, and the signature
  `serving_default(images) -> probabilities`. It runs without JAX.
"""

from collections.abc import Callable
import json
import pathlib

import jax
from jax import export
from jax.extend.mlir.dialects import stablehlo
import jax.numpy as jnp
from ml_collections import FrozenConfigDict
import numpy as np

from alexnet_jax import models
from alexnet_jax.evaluation.loading import Trained
from alexnet_jax.models import layers
from alexnet_jax.steps import augment
from alexnet_jax.utils.optional_import import import_module, import_tensorflow

FORMATS = ('stablehlo', 'savedmodel')
_PLATFORMS = ('cpu', 'cuda', 'tpu')
_STABLEHLO = '1.9.0'  # version in SavedModels; TensorFlow 2.21 reads up to 1.13


def serving_function(config: FrozenConfigDict) -> Callable:
  """Returns the function `f(variables, mean_image, canvases) -> probabilities` of a network.

  It runs on one device and takes any batch size, also a symbolic one.

  Args:
    config: the whole config of the network. `eval.views` chooses the views that are averaged.

  Returns:
    A function of `{'params', 'batch_stats'}`, the mean image float32 `[C, C, 3]` and canvases uint8
    `[B, C, C, 3]` that returns float32 `[B, classes]`.
  """
  module = models.create(config.model)
  views = jnp.asarray(augment.VIEWS[config.eval.views], jnp.float32)

  def serve(variables, mean_image, canvases):
    def one(canvas):
      def probabilities(view):
        images = augment.eval_images(canvas[None], view, mean_image, config)
        return jax.nn.softmax(jnp.asarray(module.apply(variables, images, train=False)))[0]

      return jax.lax.map(probabilities, views).mean(0)

    return jax.vmap(one)(canvases)

  return serve


def export_program(trained: Trained, form: str, output: str) -> dict[str, object]:
  """Writes the program of a network, and a JSON file that describes its inputs and outputs.

  Args:
    trained: the network, on one device.
    form: one of `FORMATS`.
    output: the file, or for savedmodel the folder.

  Returns:
    `views`, the number of views that are averaged, and `description`, the path of the JSON file.

  Raises:
    UserError: the format is savedmodel and TensorFlow is not installed.
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
    'canvas': config.data.canvas.to_dict(),  # how to make a canvas from a photograph
    'views': config.eval.views,
    'recipe': config.recipe,
    'checkpoint': trained.step,
    'classes': trained.meta['class_names'],
  }
  write = _write_stablehlo if form == 'stablehlo' else _write_savedmodel
  with layers.reference_only():  # the program also runs on other devices
    write(function, constants, size, output)
  folder = pathlib.Path(output)
  path = folder / 'alexnet_jax.json' if folder.is_dir() else pathlib.Path(f'{output}.json')
  path.write_text(json.dumps(description, indent=2))
  return {'views': config.eval.views, 'description': str(path)}


def _canvases(size: int) -> jax.ShapeDtypeStruct:
  (batch,) = export.symbolic_shape('batch')
  return jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)


def _write_stablehlo(function: Callable, constants: tuple, size: int, output: str) -> None:
  import_module('flatbuffers', 'interop', '--format=stablehlo')  # JAX imports it to serialise
  program = jax.jit(lambda images: function(*constants, images))
  exported = export.export(program, platforms=_PLATFORMS)(_canvases(size))
  pathlib.Path(output).write_bytes(exported.serialize())


def _write_savedmodel(function: Callable, constants: tuple, size: int, output: str) -> None:
  """Wraps the StableHLO program in the TensorFlow operation that jax2tf also uses.

  jax2tf itself writes the StableHLO version of four weeks ago, which TensorFlow 2.21 cannot read when
  JAX 0.12 writes it. This function writes an older version, which both know.
  """
  tf = import_tensorflow('--format=savedmodel')
  xla = import_module('tensorflow.compiler.tf2xla.python.xla', 'data', '--format=savedmodel')

  abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), constants)
  program = export.export(jax.jit(function), platforms=_PLATFORMS)(*abstract, _canvases(size))
  module = stablehlo.serialize_portable_artifact_str(program.mlir_module(), _STABLEHLO)
  (result,) = program.out_avals
  served = tf.Module()
  served.constants = [tf.Variable(x, trainable=False) for x in jax.tree.leaves(constants)]

  @tf.function(
    input_signature=[tf.TensorSpec((None, size, size, 3), tf.uint8, 'images')], autograph=False
  )
  def serve(images):
    arguments = [*served.constants, images]
    (probabilities,) = xla.call_module(
      [arguments[i] for i in program.module_kept_var_idx],
      version=program.calling_convention_version,
      module=module,
      Tout=[tf.float32],
      Sout=[tf.TensorShape((None, result.shape[1]))],
      platforms=[platform.upper() for platform in _PLATFORMS],
    )
    return {'probabilities': probabilities}

  served.serve = serve
  tf.saved_model.save(served, output, signatures={'serving_default': serve})
