"""Starting from layers that were learnt elsewhere: `config.init_from`, layers copied by name.

As the original did for the paper's CNN* (`initw.makew`, FACTS section 4): layers that are named are copied,
the others, new heads above all, start as the recipe draws them. The velocity starts at zero, the mean image
is that of the new images.
"""

from collections.abc import Mapping
import dataclasses
import pathlib

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np

from alexnet_jax import steps
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import evaluate
from alexnet_jax.interop import archive
from alexnet_jax.models.alexnet import number

Rooms = dict[str, dict[str, np.ndarray]]


def read(place: str, config: FrozenConfigDict) -> tuple[Rooms, Rooms]:
  """Parameters and batch statistics of a network on the host, the layout of `models.alexnet`.

  Args:
    place: the workdir of a run, whose last checkpoint is read (the best was chosen on images that may measure
      this run, too), or an archive (`--format=safetensors`).
    config: of the run that wants them.

  Raises:
    UserError: there is no such thing.
  """
  if place.endswith('.safetensors'):
    archive.read_metadata(place)
    tree = archive.unflatten(archive.read_tensors(place))
    return tree['params'], tree.get('batch_stats', {})
  if not pathlib.Path(place).is_dir():
    raise UserError(
      f'config.init_from={place}: there is no such folder; name the workdir of a run, or a .safetensors file'
    )
  whole = ConfigDict(
    config.to_dict() | {'mesh': (0, 0)}
  )  # whole networks: every process can read them
  model = evaluate.load(place, 'latest', whole).model
  return jax.tree.map(np.asarray, (model.params, model.batch_stats))


def check_origin(config: ConfigDict | FrozenConfigDict) -> None:
  """Raises UserError where layers are to be copied and nothing says where from."""
  if config.init_layers and not config.init_from:
    raise UserError(
      f'config.init_layers={config.init_layers}, but nothing says where from: name the run with '
      '--config.init_from=RUN, or copy none with --config.init_layers='
    )


def _rooms(layer: str, ours: Mapping) -> list[str]:
  """The names under which a layer, and what normalises it, keeps parameters."""
  return [layer, *(name for name in [f'batch_norm{number(layer)}'] if name in ours)]


def copy_layers(config: FrozenConfigDict, mesh: Mesh, state: steps.TrainState) -> steps.TrainState:
  """A fresh `state` with the layers `config.init_layers` of the network `config.init_from`.

  Without `init_layers` it is every layer but the last, which is for other classes.

  Raises:
    UserError: the network cannot be read, or its layers have other shapes: all that differ are listed.
  """
  if not config.init_from:
    return state
  named = config.init_layers
  layers = named.split(',') if named else config.model.layers[:-1]
  found = read(config.init_from, config)
  kept, differing = [], []
  for ours, theirs in zip((state.params, state.batch_stats), found, strict=True):
    copied = {}
    for room in (room for layer in layers for room in _rooms(layer, ours) if room in ours):
      for name, leaf in ours[room].items():
        there = theirs.get(room, {}).get(name)
        if there is None or there.shape != leaf.shape:
          shape = 'nothing' if there is None else str(list(there.shape))
          differing.append(f'{room}/{name} is {shape} there, {list(leaf.shape)} here')
          continue
        copied.setdefault(room, {})[name] = jax.make_array_from_callback(
          leaf.shape, leaf.sharding, there.__getitem__
        )
    kept.append(ours | copied)
  if differing:
    raise UserError(
      f'config.init_from={config.init_from} has other layers ({"; ".join(differing)}): name others '
      'to copy with --config.init_layers, or make the widths and sizes equal'
    )
  ema = jax.tree.map(jnp.copy, kept[0]) if state.ema else {}  # the step donates both
  return dataclasses.replace(state, params=kept[0], batch_stats=kept[1], ema=ema)
