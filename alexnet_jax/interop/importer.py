"""`--mode=import`: makes a workdir, with a checkpoint of step 0, from weights that were trained elsewhere."""

from collections import Counter
import pathlib

from absl import logging
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
from alexnet_jax.interop import caffe, cuda_convnet, layout, pytorch, sidecar
from alexnet_jax.steps import optimizer, schedules
from alexnet_jax.utils import atomic_io
from alexnet_jax.workdir import archive, lock
from alexnet_jax.workdir.checkpoint import FOLDER, Checkpoints
from alexnet_jax.workdir.checkpoint_folder import CheckpointFolder

IMPORTS = ('torchvision', 'pytorch', 'caffe', 'cuda_convnet', 'safetensors')

# The channel means of ILSVRC-2012 that each project uses: RGB, grey levels (docs/FACTS.md, section 3).
MEANS = {
  'torchvision': (123.675, 116.28, 103.53),  # 255 x (0.485, 0.456, 0.406)
  'caffe': (123.0, 117.0, 104.0),
  'cuda_convnet': (127.305, 119.715, 104.913),
}
# For the recipes of ImageNet, the project whose mean applies.
_PROJECTS = {
  'torchvision': 'torchvision',
  'caffe': 'caffe',
  'paper': 'cuda_convnet',
  'original': 'cuda_convnet',
  'owt': 'cuda_convnet',
}
# The keys that decide how images become inputs. A file that records the config fixes them.
_INPUT = (
  'data.canvas.size',
  'data.canvas.fit',
  'data.canvas.filter',
  'model.input_size',
  'augment.mean',
  'augment.mean_at',
  'augment.std',
)
# Colour statistics of ILSVRC-2012's training images (FACTS section 3), used if training continues.
_EIGENVECTORS = (  # in columns
  (-0.41796, 0.71258, 0.56351),
  (0.81698, 0.02354, 0.57618),
  (-0.39731, -0.70120, 0.59200),
)
_DEVIATIONS = (19.7208, 37.0939, 121.7801)
_IMAGENET = 1000  # classes of ILSVRC
_NEAR = 1.5  # two channel means that differ by less, in grey levels, count as the same


def default_config(form: str, weights: str) -> ConfigDict:
  """Returns the config that weights are for, where the user names none.

  It is the config in our archive, or in the sidecar of weights that this project exported, or else that
  of the recipe of the format.

  Raises:
    UserError: the format is unknown or may be for any config, or the file cannot be read.
  """
  _check_format(form)
  if form == 'safetensors':
    return config_lib.from_json(archive.read_metadata(weights)['config'])
  if described := sidecar.read(weights):
    return described.config
  if form == 'pytorch':
    raise UserError(
      '--format=pytorch may be for any network: name its recipe, as in --config=alexnet:caffe'
    )
  if form == 'caffe':
    return recipes.get(caffe.recipe_of(caffe.read(weights), weights))
  config = recipes.get({'torchvision': 'torchvision', 'cuda_convnet': 'original'}[form])
  if form == 'cuda_convnet':
    config.data.label_order = 'devkit'  # the original's labels (FACTS section 3)
  return config


def import_network(
  config: ConfigDict,
  workdir: str,
  form: str,
  weights: str,
  mean: str = '',
  classes: str = '',
  channels: str = '',
) -> dict[str, object]:
  """Makes a workdir with config.json and a checkpoint of step 0 from the weights of another framework.

  Args:
    config: the network that the weights are for, as `default_config` returns it. With
      `model.num_classes` 0 the number of classes is that of the weights.
    workdir: a folder that holds no run yet.
    form: one of `IMPORTS`.
    weights: the file.
    mean: `R,G,B` in grey levels, or the path of a mean image: Caffe's .binaryproto or an .npy file of RGB
      `[C, C, 3]`. By default the mean image of the archive or of the sidecar, or else one of `MEANS`.
    classes: a text file with one class name a line, in the order of the labels. By default the names of the
      archive or of the sidecar, or else the WordNet IDs of ILSVRC-2012 (1000 classes) or `class 0` and so on.
    channels: `rgb` or `bgr`, the order of the channels in the images that the network was trained on. By
      default bgr for Caffe and rgb for all others. The imported network takes RGB.

  Returns:
    `workdir`, `checkpoint` (its folder), `recipe`, `parameters`, `classes`, `channels` and `mean` (RGB
    grey levels).

  Raises:
    UserError: the file, the mean or the classes do not fit the config, or the workdir holds a run.
  """
  _check_format(form)
  folder = _new_folder(workdir)
  config = config.copy_and_resolve_references()
  config_lib.validate(config)
  usual = _usual_channels(form, channels)
  logging.info('reading %s', weights)
  if form == 'safetensors':
    network = _from_archive(config, weights)
  else:
    network = _from_weights(config, form, weights, channels not in ('', usual), bool(mean))
  if mean:
    image = _mean(mean, config.data.canvas.size, channels or 'bgr')
    network = network._replace(statistics=network.statistics._replace(mean_image=image))
  if classes:
    names = _read_classes(classes, len(network.class_names))
    network = network._replace(class_names=names, class_titles=None)
  config.model.num_classes = len(network.class_names)
  config.optim.ema, config.eval.weights = 0.0, 'last'  # a file holds one set of weights
  logging.info('writing %s', workdir)
  checkpoint = _save(FrozenConfigDict(config), folder, network)
  return {
    'workdir': str(workdir),
    'checkpoint': str(checkpoint),
    'recipe': config.recipe,
    'parameters': sum(x.size for x in jax.tree.leaves(network.params)),
    'classes': len(network.class_names),
    'channels': channels or usual,
    'mean': [round(float(x), 3) for x in network.statistics.mean_image.mean((0, 1), np.float64)],
  }


def _from_archive(config: ConfigDict, weights: str) -> archive.Network:
  """Reads our archive, which must hold the network of `config`."""
  own = default_config('safetensors', weights)
  layout.check_same_function(config.model, own.model, weights)
  _check_input(config, own, weights)
  config.model.num_classes = config.model.num_classes or own.model.num_classes
  return archive.read_network(weights, config)


def _check_input(config: ConfigDict, own: ConfigDict, weights: str) -> None:
  """Raises UserError where images would become other inputs than those that the network was trained on."""
  here, there = config_lib.flatten(config), config_lib.flatten(own)
  for key in _INPUT:
    if here[key] != there[key]:
      raise UserError(
        f'config.{key}={here[key]!r}, but {weights} was exported with {there[key]!r}: leave it out'
      )


def _check_format(form: str) -> None:
  if form not in IMPORTS:
    raise UserError(f'--format={form}: choose one of {", ".join(IMPORTS)}')


def _new_folder(workdir: str) -> pathlib.Path:
  """Returns the folder of a workdir; raises UserError if it holds a run.

  A `checkpoints` folder without a checkpoint is left by an import that failed.
  """
  folder = pathlib.Path(workdir)
  checkpoints = CheckpointFolder(folder / FOLDER, read_only=True)
  has_checkpoint = checkpoints.path.is_dir() and checkpoints.has_any()
  if has_checkpoint or (folder / config_lib.FILE).exists():
    raise UserError(f'--workdir={workdir} holds a run already: name a new folder')
  return folder


def _usual_channels(form: str, channels: str) -> str:
  """Returns the usual order of channels of a format; raises UserError if `--channels` is not possible."""
  usual = 'bgr' if form == 'caffe' else 'rgb'
  if channels not in ('', usual) and (form == 'safetensors' or channels not in ('rgb', 'bgr')):
    raise UserError(f'--channels={channels}: choose rgb or bgr; --format=safetensors is always rgb')
  return usual


def _from_weights(
  config: ConfigDict, form: str, weights: str, is_reversed: bool, has_mean: bool
) -> archive.Network:
  """Reads weights in the format of another framework, and their sidecar if they have one.

  Args:
    config: the network that the weights are for.
    form: one of `IMPORTS` but safetensors.
    weights: the file.
    is_reversed: whether the network takes the other order of channels than is usual for the format.
    has_mean: whether `--mean` replaces the mean image, so that it need not be known here.
  """
  described = sidecar.read(weights)
  if described:
    layout.check_same_function(config.model, described.config.model, weights)
    _check_input(config, described.config, weights)
  params = _read_params(form, weights, config.model)
  first, *_, last = config.model.layers
  if is_reversed:
    params[first]['kernel'] = np.array(params[first]['kernel'][..., ::-1, :], order='C')
  classes = params[last]['bias'].size
  if not described:
    names = _class_names(classes, form, config.data.devkit)
    return archive.Network(params, {}, _statistics(form, config, has_mean), names, [0] * classes)
  size = config.data.canvas.size
  expected = {'class_names': classes, 'class_counts': classes, 'mean_image': (size, size, 3)}
  found = {
    'class_names': len(described.class_names),
    'class_counts': len(described.class_counts),
    'mean_image': described.statistics.mean_image.shape,
  }
  if found != expected:
    raise UserError(
      f'{sidecar.path_of(weights)} has {found}, but the network needs {expected}: export again, or move '
      'it away'
    )
  return archive.Network(
    params, {}, described.statistics, described.class_names, described.class_counts
  )


def _read_params(form: str, weights: str, model: ConfigDict) -> dict:
  """Reads the parameters of the network of `config.model`, in our layout."""
  match form:
    case 'torchvision':
      return pytorch.from_torchvision(pytorch.read(weights), model, weights)
    case 'pytorch':
      return pytorch.from_pytorch(pytorch.read(weights), model, weights)
    case 'caffe':
      return caffe.from_caffe(weights, model)
    case _:
      return cuda_convnet.from_cuda_convnet(cuda_convnet.read(weights), model, weights)


def _statistics(form: str, config: ConfigDict, has_mean: bool) -> Statistics:
  """Returns the statistics of ImageNet's training images, for the canvas of the config.

  Raises:
    UserError: the network is not one for ImageNet, and `--mean` is not given.
  """
  size = config.data.canvas.size
  levels = MEANS.get(form) or MEANS.get(_PROJECTS.get(config.recipe.partition('+')[0], ''))
  if not (levels or has_mean):
    raise UserError(
      f'the mean of the images is not known for recipe {config.recipe}: give it with --mean=R,G,B, in '
      'grey levels'
    )
  levels = levels or (0.0, 0.0, 0.0)  # --mean replaces it
  mean = np.broadcast_to(np.asarray(levels, np.float32), (size, size, 3)).copy()
  colours = (np.asarray(x, np.float32) for x in (_EIGENVECTORS, _DEVIATIONS))
  return Statistics(mean, *colours)


def _mean(mean: str, size: int, channels: str) -> np.ndarray:
  """Reads `--mean` as a mean image.

  Args:
    mean: see `import_network`.
    size: side of the canvas, in pixels.
    channels: the order of the channels in a .binaryproto, rgb or bgr.

  Returns:
    float32 `[size, size, 3]`, RGB.
  """
  if mean.lower().endswith('.binaryproto'):
    image = caffe.read_mean(mean, channels)
  else:
    try:
      is_file = mean.lower().endswith('.npy')
      levels = np.load(mean, allow_pickle=False) if is_file else mean.split(',')
      image = np.asarray(levels, np.float32)
    except Exception as error:  # NumPy's reader raises many types on damaged files
      raise UserError(
        f'--mean={mean}: write R,G,B in grey levels, or name a .binaryproto or .npy file ({error})'
      ) from None
  if not np.isfinite(image).all():
    raise UserError(
      f'--mean={mean} has numbers that are not finite: give grey levels from 0 to 255'
    )
  if 0 < image.max(initial=0) <= 1:
    raise UserError(
      f'--mean={mean} is on a scale of 0 to 1: give grey levels from 0 to 255, which are 255 times as large'
    )
  if image.shape not in ((3,), (size, size, 3)):
    raise UserError(
      f'--mean={mean} has shape {list(image.shape)}: give three numbers or [{size}, {size}, 3], RGB'
    )
  image = np.broadcast_to(image, (size, size, 3)).copy()
  _check_order(image, mean, channels)
  return image


def _check_order(image: np.ndarray, mean: str, channels: str) -> None:
  """Raises UserError where the channel means of a mean image are those of ImageNet in the order B, G, R."""
  found = image.mean((0, 1), np.float64)
  if any(np.abs(found[::-1] - known).max() < _NEAR for known in MEANS.values()):
    remedy = 'give R,G,B, also for a network that takes BGR'
    if mean.lower().endswith('.binaryproto'):
      other = {'rgb': 'bgr', 'bgr': 'rgb'}[channels]
      remedy = f'add --channels={other} if its network takes {other.upper()}'
    shown = ', '.join(f'{x:.1f}' for x in found)
    raise UserError(
      f"--mean={mean} has R, G, B means of {shown}, which are ImageNet's B, G, R: {remedy}"
    )


def _class_names(number: int, form: str, devkit: str) -> list[str]:
  """Returns the default names of classes; see `import_network`."""
  if number == _IMAGENET and form == 'cuda_convnet' and devkit:
    return list(imagenet.read_devkit(devkit).wnids)
  if number == _IMAGENET and form != 'cuda_convnet':
    return list(imagenet.wnids_of_2012())
  return [f'class {k}' for k in range(number)]


def _read_classes(path: str, number: int) -> list[str]:
  """Reads `--classes`: `number` different names, one on each line."""
  try:
    names = [line.strip() for line in pathlib.Path(path).read_text().splitlines() if line.strip()]
  except (OSError, ValueError) as error:
    raise UserError(f'--classes={path} cannot be read ({error}): name a text file') from None
  if len(names) != number:
    raise UserError(
      f'--classes={path} has {len(names)} names, the weights {number} classes: write one name on '
      'each line, in the order of the labels'
    )
  if repeated := [name for name, count in Counter(names).items() if count > 1]:
    raise UserError(
      f'--classes={path} names {", ".join(repeated)} more than once: make the names different, as in '
      f'`{repeated[0]} (2)`'
    )
  return names


def _save(
  config: FrozenConfigDict, workdir: pathlib.Path, network: archive.Network
) -> pathlib.Path:
  """Writes the checkpoint of step 0, then config.json; returns the folder of the checkpoint."""
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
    'class_titles': network.class_titles,
    'num_train': 0,
    'num_validation': 0,
    'epoch': 0.0,
    'loss': None,
    'schedule': schedules.ScheduleState()._asdict(),
    'validation': {},
  }
  lock.make_workdir(workdir)
  with lock.locked(workdir), Checkpoints(workdir) as checkpoints:
    if not checkpoints.save(jax.tree.map(jnp.asarray, state), network.statistics, meta):
      raise UserError('the weights hold numbers that are not finite: download them again')
  atomic_io.write(workdir / config_lib.FILE, config_lib.to_json(config))
  return workdir / FOLDER / '0'
