"""Fine-tuning: starts a run from layers of another network (`config.init_from`, `config.init_layers`).

The named layers are copied, and all others, such as a new last layer, are initialised as the recipe says. The
original code did the same for the paper's CNN* (`initw.makew`, docs/FACTS.md, section 4). The velocity starts
at zero, and the mean image is that of the new images.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib

from absl import logging
from flax.traverse_util import unflatten_dict
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np

from alexnet_jax import steps
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import loading
from alexnet_jax.interop import layout
from alexnet_jax.models.spec import number
from alexnet_jax.workdir import archive

Tree = dict[str, dict[str, np.ndarray]]  # arrays by layer and name


def read(source: str, config: FrozenConfigDict) -> tuple[Tree, Tree, FrozenConfigDict]:
  """Reads the parameters and the batch statistics of a network, as NumPy arrays, and its whole config.

  Args:
    source: the workdir of a run, or a file that `--mode=export --format=safetensors` wrote. Of a run, the
      newest checkpoint is read, because the best one may have been chosen on the new run's validation images.
    config: the whole config of the new run.

  Raises:
    UserError: `source` does not exist or cannot be read.
  """
  is_file = archive.has_suffix(source)
  if not (pathlib.Path(source).is_file() if is_file else pathlib.Path(source).is_dir()):
    raise UserError(
      f'config.init_from={source}: there is no such {"file" if is_file else "folder"}; name the workdir of a '
      'run, or a .safetensors file'
    )
  if is_file:
    own = FrozenConfigDict(archive.read_config(source))
    tree = unflatten_dict(archive.read_tensors(source), sep='/')
    return tree['params'], tree.get('batch_stats', {}), own
  # Without a mesh, every process reads the whole network. `eval.weights` is about the new run.
  values = config.to_dict() | {'mesh': (0, 0)}
  values['eval'] = values['eval'] | {'weights': 'last'}
  trained = loading.load(source, 'latest', ConfigDict(values))
  logging.info('config.init_from=%s: the layers are copied from step %d', source, trained.step)
  variables = trained.model.params, trained.model.batch_stats
  return *jax.tree.map(np.asarray, variables), trained.meta['config']


def check_origin(config: ConfigDict | FrozenConfigDict) -> None:
  """Checks that layers to copy have a source.

  Raises:
    UserError: `config.init_layers` is set and `config.init_from` is not.
  """
  if config.init_layers and not config.init_from:
    raise UserError(
      f'config.init_layers={config.init_layers} needs a network to copy from: name the run with '
      '--config.init_from=RUN, or copy no layers with --config.init_layers='
    )


def _names_of(layer: str, tree: Mapping) -> list[str]:
  """Returns the entries of `tree` that belong to a layer: its own and that of its batch normalisation."""
  return [name for name in (layer, f'batch_norm{number(layer)}') if name in tree]


def copy_layers(config: FrozenConfigDict, mesh: Mesh, state: steps.TrainState) -> steps.TrainState:
  """Returns the new `state` with layers of the network `config.init_from` copied into it.

  The layers are those of `config.init_layers`; if that is empty, all but the last one, which belongs to other
  classes. Without `config.init_from` the state is returned unchanged.

  Raises:
    UserError: the network cannot be read, or its layers have other shapes; the message lists all of them.
  """
  if not config.init_from:
    return state
  layers = config.init_layers.split(',') if config.init_layers else config.model.layers[:-1]
  params, batch_stats, own = read(config.init_from, config)
  new_params, differing = _copied(layers, state.params, params)
  new_batch_stats, more_differing = _copied(layers, state.batch_stats, batch_stats)
  if differing := differing + more_differing:
    raise UserError(
      f'config.init_from={config.init_from} has other layers ({"; ".join(differing)}): choose the layers '
      'to copy with --config.init_layers, or make the widths and sizes equal'
    )
  _warn_of_another_function(config, own, layers)
  ema = jax.tree.map(jnp.copy, new_params) if state.ema else {}  # a copy, as the step donates both
  return dataclasses.replace(state, params=new_params, batch_stats=new_batch_stats, ema=ema)


def _warn_of_another_function(
  config: FrozenConfigDict, own: FrozenConfigDict, layers: Sequence[str]
) -> None:
  """Logs a warning if the copied layers compute, or read, something else than in their network.

  Args:
    config: the whole config of the new run.
    own: the whole config of the network with the layers.
    layers: the layers that are copied.
  """
  others = {*config.model.layers, *own.model.layers} - set(layers)

  def values(of: FrozenConfigDict) -> dict[str, object]:
    function = {
      f'model.{key}': value
      for key, value in layout.function_of(of.model).items()
      if key != 'layers' and key.partition('.')[0] not in others
    }
    return function | {f'augment.{key}': of.augment[key] for key in ('mean', 'mean_at', 'std')}

  if differing := layout.differences(values(config), values(own), 'config.'):
    logging.warning(
      'config.init_from=%s is for another network than the config (%s): copied layers work best with the '
      'recipe that they were trained with',
      config.init_from,
      differing,
    )


def _copied(layers: Sequence[str], ours: dict, theirs: Mapping) -> tuple[dict, list[str]]:
  """Copies layers from `theirs` (host) into a copy of `ours` (devices); also lists what does not fit."""
  copied: dict[str, dict[str, jax.Array]] = {}
  differing = []
  for entry in (entry for layer in layers for entry in _names_of(layer, ours)):
    for name, leaf in ours[entry].items():
      array = theirs.get(entry, {}).get(name)
      if array is None or array.shape != leaf.shape:
        shape = 'missing' if array is None else str(list(array.shape))
        differing.append(f'{entry}/{name} is {shape} there, {list(leaf.shape)} here')
        continue
      copied.setdefault(entry, {})[name] = jax.make_array_from_callback(
        leaf.shape, leaf.sharding, array.__getitem__
      )
  return ours | copied, differing
