"""Converts parameters between our layout and that of Caffe and PyTorch.

Planar parameters, as Caffe and PyTorch have them (docs/FACTS.md, sections 1.2 and 8, item 6), are
`{layer: {'weight', 'bias'}}` in the order of the layers, with towers as groups:

    convolution       weight [out, in, height, width], where `in` counts the maps of one group
    fully connected   weight [out, in]; a layer that reads maps reads them flattened as (C, H, W)
    biases            [out]

Our parameters (`alexnet_jax.models.alexnet`) are `{layer: {'kernel', 'bias'}}`:

    convolution       kernel [tower, height, width, in, out]
    fully connected   kernel [tower, in, out]; maps are flattened as (H, W, C of all towers)
    last layer        kernel [tower, in, out], where each tower reads its own maps or units
    biases            [tower, out], and [out] in the last layer
"""

from collections.abc import Mapping, Sequence

import jax
from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np

from alexnet_jax import models
from alexnet_jax.errors import UserError
from alexnet_jax.models.spec import is_dense, is_local

Planar = dict[str, dict[str, np.ndarray]]
_FREE = ('std', 'bias', 'features')  # keys of a layer that do not change what it computes


def to_planar(params: Mapping, layers: Sequence[str]) -> Planar:
  """Converts our parameters to planar ones: the same numbers in another order.

  Args:
    params: our parameters, NumPy or JAX arrays, of a network that `check_planar` accepts.
    layers: `config.model.layers`.
  """
  planar = {}
  for before, layer in zip((None, *layers), layers, strict=False):
    kernel, bias = params[layer]['kernel'], params[layer]['bias']
    if not is_dense(layer):
      towers, height, width, _, out = kernel.shape
      weight = _transpose(kernel, 'tower height width in out', 'tower out in height width')
      weight = weight.reshape(towers * out, -1, height, width)
    else:
      is_last = bias.ndim == 1
      towers, inputs, out = kernel.shape
      pixels = _pixels(params, before, inputs * towers if is_last else inputs)
      kernel = kernel.reshape(towers, pixels, -1, out)
      order = 'out tower map pixel' if is_last else 'tower out map pixel'
      weight = _transpose(kernel, 'tower pixel map out', order).reshape(bias.size, -1)
    planar[layer] = {'weight': weight, 'bias': bias.reshape(-1)}
  return planar


def from_planar(planar: Mapping, model: ConfigDict | FrozenConfigDict) -> dict:
  """Converts planar parameters to ours; the exact inverse of `to_planar`.

  Args:
    planar: planar parameters with the shapes that `planar_shapes` gives.
    model: `config.model`.

  Returns:
    New float32 NumPy arrays.
  """
  params, layers, towers = {}, model.layers, model.towers
  for before, layer in zip((None, *layers), layers, strict=False):
    weight, bias = planar[layer]['weight'], planar[layer]['bias']
    is_last = layer == layers[-1]
    if not is_dense(layer):
      weight = weight.reshape(towers, -1, *weight.shape[1:])
      kernel = _transpose(weight, 'tower out in height width', 'tower height width in out')
    else:
      out, inputs = weight.shape
      pixels = _pixels(planar, before, inputs)
      if is_last:
        weight = weight.reshape(out, towers, -1, pixels)
        kernel = _transpose(weight, 'out tower map pixel', 'tower pixel map out')
      else:
        weight = weight.reshape(towers, out // towers, -1, pixels)
        kernel = _transpose(weight, 'tower out map pixel', 'tower pixel map out')
      kernel = kernel.reshape(towers, -1, kernel.shape[-1])
    params[layer] = {'kernel': kernel, 'bias': bias if is_last else bias.reshape(towers, -1)}
  return jax.tree.map(lambda x: np.array(x, np.float32, order='C'), params)


def _transpose(array, axes: str, order: str):
  """Transposes an array whose axes have names, given in order and separated by blanks."""
  names = axes.split()
  return array.transpose([names.index(name) for name in order.split()])


def _pixels(params: Mapping, before: str | None, inputs: int) -> int:
  """Returns the pixels of each map that a fully connected layer reads; 1 if it reads units.

  Args:
    params: our parameters, or planar ones.
    before: the layer before it, if any.
    inputs: number of its inputs.
  """
  if before is None or is_dense(before):
    return 1
  return inputs // params[before]['bias'].size


def planar_shapes(model: ConfigDict | FrozenConfigDict) -> dict[str, dict[str, tuple[int, ...]]]:
  """Returns the shapes of the planar parameters of `config.model`: `{layer: {'weight', 'bias'}}`."""
  params = models.abstract_variables(model)['params']
  planar = jax.eval_shape(lambda params: to_planar(params, model.layers), params)
  return {
    layer: {name: planar[layer][name].shape for name in ('weight', 'bias')}
    for layer in model.layers
  }


def check_planar(model: ConfigDict | FrozenConfigDict, what: str, remedy: str) -> None:
  """Raises UserError where planar parameters cannot hold the network of `config.model`.

  Args:
    model: `config.model`.
    what: the file or format, for the message.
    remedy: the end of the message.
  """
  unsupported = [
    name
    for name in model.layers
    if is_local(name)
    or (is_dense(name) and name != model.layers[0] and not model[name].get('exchange', True))
  ] + ['batch normalisation'] * (model.norm == 'batch')
  if unsupported:
    raise UserError(
      f'{what} cannot hold {", ".join(unsupported)}, only convolutions and fully connected layers that '
      f'read all towers: {remedy}'
    )
  # Pixels are flattened as (H, W, C) by us and as (C, H, W) there, which is the same for one channel.
  if is_dense(model.layers[0]) and not (model.gray and model.towers == 1):
    raise UserError(
      f'{what} cannot hold a network whose first layer is fully connected, unless the network is grey and '
      f'has one tower: {remedy}'
    )


def dropout_factor(model: ConfigDict | FrozenConfigDict) -> float:
  """Returns the factor of dropout outside of training, which is 1 if it is inverted (FACTS section 1.4)."""
  return 1.0 if model.dropout.inverted else 1.0 - model.dropout.rate


def function_of(model: ConfigDict | FrozenConfigDict) -> dict[str, object]:
  """Returns the values of `config.model` that decide what the network computes from given parameters.

  Args:
    model: `config.model`.

  Returns:
    Values by their keys, such as `{'conv1.stride': 4, 'lrn.k': 2.0, ...}`.
  """
  values = model.to_dict()
  function = {key: values[key] for key in ('activation', 'gray', 'layers', 'towers')}
  no_effect = {'lrn': set(), 'batch': {'map_norm'}, 'none': {'norm', 'map_norm'}}[model.norm]
  no_effect |= {'dropout'} if dropout_factor(model) == 1 else set()
  used: set[str] = set()
  for layer in model.layers:
    described = {key: value for key, value in values[layer].items() if key not in _FREE}
    described['then'] = tuple(x for x in described.get('then', ()) if x not in no_effect)
    used.update(described['then'])
    function |= {f'{layer}.{key}': value for key, value in described.items()}
  function.pop(f'{model.layers[0]}.exchange', None)  # all towers read the same image
  if used & {'norm', 'map_norm'}:
    function['norm'] = model.norm
  constants = {  # the entry of `config.model` with the constants of each operation
    'dropout': 'dropout',
    'norm': 'batch_norm' if model.norm == 'batch' else 'lrn',
    'map_norm': 'map_norm',
    'pool': 'pool',
    'avg_pool': 'pool',
  }
  for operation, entry in constants.items():
    if operation in used:
      function |= {f'{entry}.{key}': value for key, value in values[entry].items()}
  function.pop('batch_norm.momentum', None)  # it matters in training only
  return function


def check_same_function(
  ours: ConfigDict | FrozenConfigDict, theirs: ConfigDict | FrozenConfigDict, what: str
) -> None:
  """Checks that two networks compute the same function of given parameters.

  They may differ in widths, classes, image size, initial weights, dtype, dropout without effect outside of
  training, and constants that neither uses.

  Args:
    ours: `config.model`.
    theirs: the `config.model` of `what`.
    what: the file or format, for the message.

  Raises:
    UserError: the functions differ. The message lists the keys with both values.
  """
  if differing := differences(function_of(ours), function_of(theirs), 'config.model.'):
    raise UserError(
      f'{what} is for another network than the config ({differing}): choose the recipe or the format that '
      'fits'
    )


def differences(here: Mapping[str, object], there: Mapping[str, object], prefix: str) -> str:
  """Lists the keys, after a prefix, whose values differ, with both values; '' if there are none."""
  return '; '.join(
    f'{prefix}{key} is {here.get(key)!r}, there {there.get(key)!r}'
    for key in sorted(here.keys() | there.keys())
    if here.get(key) != there.get(key)
  )
