"""`--mode=export`: writes the network of a checkpoint for another framework or program."""

import json
import math
import os
import pathlib
import tempfile

from absl import logging
from flax.traverse_util import flatten_dict
import jax
from ml_collections import ConfigDict
import numpy as np

from alexnet_jax import config as config_lib
from alexnet_jax.config import recipes
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import loading
from alexnet_jax.interop import (
  cuda_convnet,
  layout,
  model_card,
  programs,
  pytorch,
  sidecar,
)
from alexnet_jax.utils import atomic_io, output_path
from alexnet_jax.workdir import archive

EXPORTS = ('torchvision', 'pytorch', 'cuda_convnet', 'safetensors', 'stablehlo', 'savedmodel')

_SUFFIXES = {
  'torchvision': ('.pth', '.pt', '.safetensors'),
  'pytorch': ('.pth', '.pt', '.safetensors'),
  'cuda_convnet': ('.npz', '.safetensors'),
  'safetensors': ('.safetensors',),
}


def export_network(
  config: ConfigDict, workdir: str, form: str, output: str, which: str = 'best'
) -> dict[str, object]:
  """Writes the network of a checkpoint, and a model card beside it.

  Args:
    config: `eval.weights` chooses the weights, and `eval.views` (1 or 10) how many views an exported program
      averages. All other values are those of the checkpoint.
    workdir: the folder of the run, or a .safetensors file.
    form: one of `EXPORTS`.
    output: the file, or for savedmodel the folder. Files of torchvision and pytorch end in .pth or
      .safetensors, those of cuda_convnet in .npz or .safetensors.
    which: the checkpoint: best, latest or a step.

  Returns:
    `output`, `format`, `checkpoint` (step), `bytes` and `model_card` (path). Weights in another format than
    safetensors, and programs, also have `description`, the path of a JSON file beside them; programs also
    have `views`.

  Raises:
    UserError: there is no such checkpoint, the output or another file of its description's name exists, or
      the format cannot hold this network.
  """
  if form not in EXPORTS:
    raise UserError(f'--format={form}: choose one of {", ".join(EXPORTS)}')
  if os.path.exists(output):
    raise UserError(f'--output={output} exists already: remove it, or name another')
  output_path.check(output, _SUFFIXES.get(form, ()))
  description = sidecar.path_of(output)
  if form not in ('safetensors', 'savedmodel') and not sidecar.may_replace(description):
    raise UserError(
      f'{description} exists already, and no export wrote it: move it away, or name another --output'
    )
  trained = loading.load_alone(workdir, which, config)
  logging.info('writing %s', output)
  more = _write(trained, form, pathlib.Path(output))
  result = {'output': output, 'format': form, 'checkpoint': trained.step, 'bytes': _bytes(output)}
  return result | more | {'model_card': model_card.write(trained, form, output)}


def _write(trained: loading.Trained, form: str, output: pathlib.Path) -> dict[str, object]:
  """Writes the output and its description in a temporary folder beside it, and moves them when complete.

  The output comes last, because its presence prevents another export under its name.

  Returns:
    What `export_network` returns of the format.
  """
  parent = output.absolute().parent
  with tempfile.TemporaryDirectory(prefix=f'.{output.name}.', dir=parent) as folder:
    temporary = str(pathlib.Path(folder, output.name))
    more: dict[str, object] = {}
    if form in programs.FORMATS:
      more = programs.export_program(trained, form, temporary)
    elif form == 'safetensors':
      _write_archive(trained, temporary)
    else:
      _write_weights(trained, form, temporary)
      more = {'description': sidecar.write(trained, temporary, _portable(trained))}
    for path in pathlib.Path(folder).rglob('*'):
      atomic_io.sync(path)
    if (described := sidecar.path_of(temporary)).exists():
      described.replace(sidecar.path_of(str(output)))
    os.rename(temporary, output)
  atomic_io.sync(parent)
  if 'description' in more:
    more['description'] = str(output.parent / os.path.relpath(str(more['description']), folder))
  return more


def _write_weights(trained: loading.Trained, form: str, output: str) -> None:
  """Writes the parameters alone, in the format of another framework."""
  params, model = jax.device_get(trained.model.params), trained.config.model
  if form == 'pytorch':
    pytorch.write(output, pytorch.to_pytorch(params, model))
  elif form == 'torchvision':
    layout.check_same_function(model, recipes.get('torchvision').model, '--format=torchvision')
    pytorch.write(output, pytorch.to_torchvision(params))
  else:
    layout.check_same_function(model, recipes.get('original').model, '--format=cuda_convnet')
    cuda_convnet.write(output, params)


def _write_archive(trained: loading.Trained, output: str) -> None:
  """Writes our own archive (`alexnet_jax.workdir.archive`)."""
  params, batch_stats = jax.device_get((trained.model.params, trained.model.batch_stats))
  statistics = jax.tree.map(np.asarray, jax.device_get(trained.statistics))._asdict()
  tree = {'params': params, 'batch_stats': batch_stats, 'statistics': statistics}
  meta, labels = trained.meta, loading.class_labels(trained)
  training = {name: meta[name] for name in ('epoch', 'num_train', 'num_validation', 'validation')}
  if trained.config.eval.weights != meta['config'].eval.weights:
    training['validation'] = {}  # training measured other weights of this checkpoint
  metadata = {
    'format': archive.FORMAT,
    'version': archive.VERSION,
    'config': config_lib.to_json(_portable(trained)),
    'class_names': json.dumps(meta['class_names']),
    'class_counts': json.dumps(meta['class_counts']),
    'class_titles': json.dumps(labels if labels != list(meta['class_names']) else None),
    'training': json.dumps({'step': trained.step, **training}),
  }
  archive.write_tensors(output, flatten_dict(tree, sep='/'), metadata)


def _portable(trained: loading.Trained) -> ConfigDict:
  """Returns a config that needs no more than one device and names only the last parts of absolute paths."""
  own, run = ConfigDict(trained.config.to_dict()), trained.meta['config']
  own.mesh = run.mesh if math.prod(run.mesh) <= 1 else (0, 0)
  own.eval.train_views = run.eval.train_views  # training measured its errors with these
  form, _, path = own.data.source.partition(':')
  if form in ('folder', 'store'):
    own.data.source = f'{form}:{_relative(path)}'
  own.init_from = _relative(own.init_from)
  for key in ('data_dir', 'manual_dir', 'devkit'):
    own.data[key] = _relative(own.data[key])
  return own


def _relative(path: str) -> str:
  return os.path.basename(path.rstrip('/')) if path[:1] in ('/', '~') else path


def _bytes(output: str) -> int:
  """Returns the size of a file, or of all files in a folder."""
  path = pathlib.Path(output)
  files = path.rglob('*') if path.is_dir() else [path]
  return sum(file.stat().st_size for file in files if file.is_file())
