"""Our parameters and those of everybody else, who keep channels first and groups in one array.

Planar parameters are `{layer: {'weight', 'bias'}}` in the order of the layers, as Caffe and PyTorch have
them (FACTS sections 1.2 and 8, item 6): convolutions `[O, I, kh, kw]`, where I counts the maps of one
group; fully connected layers `[O, I]`, the first of which reads the maps of all towers flattened as
(C, H, W); biases `[O]`. Our own (`alexnet_jax.models.alexnet`) have a tower axis, keep channels last and
flatten as (H, W, tower, C). Towers follow one another as groups do.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np

from alexnet_jax import models
from alexnet_jax.errors import UserError
from alexnet_jax.models.spec import is_dense, is_local

Planar = dict[str, dict[str, np.ndarray]]
_SHOWN = 8  # unknown tensors that an error lists; of those expected it lists all that differ
_FREE = ('std', 'bias', 'features')  # of a layer: what training starts from, and its width


def to_planar(params: Mapping) -> Planar:
  """Our parameters as planar ones: the same numbers in another order.

  Args:
    params: of a network of convolutions and fully connected layers, without batch normalisation, whose
      first fully connected layer sees all towers. NumPy or JAX arrays.
  """
  planar, maps = {}, 0
  for layer in sorted(params):  # conv1 ... conv6, fc6, fc7, fc8: the order of the layers
    kernel, bias = params[layer]['kernel'], params[layer]['bias']
    towers, out = kernel.shape[0], kernel.shape[-1]
    if kernel.ndim == 5:
      weight = kernel.transpose(0, 4, 3, 1, 2).reshape(towers * out, -1, *kernel.shape[1:3])
      maps = towers * out
    elif bias.ndim == 1:  # the last layer: a share of every logit from each tower
      weight = kernel.transpose(2, 0, 1).reshape(out, -1)
    else:
      pixels = kernel.shape[1] // (maps or kernel.shape[1])
      by_pixel = kernel.reshape(towers, pixels, -1, out)
      weight = by_pixel.transpose(0, 3, 2, 1).reshape(towers * out, -1)
      maps = 0  # the next ones read no pixels
    planar[layer] = {'weight': weight, 'bias': bias.reshape(-1)}
  return planar


def from_planar(planar: Mapping, towers: int) -> dict:
  """The inverse of `to_planar`, exactly; `planar` is in the order of the layers, of checked shapes.

  Returns:
    float32 NumPy arrays of their own.
  """
  params, maps = {}, 0
  last = list(planar)[-1]
  for layer, arrays in planar.items():
    weight, bias = arrays['weight'], arrays['bias']
    if weight.ndim == 4:
      kernel = weight.reshape(towers, -1, *weight.shape[1:]).transpose(0, 3, 4, 2, 1)
      maps = len(weight)
    elif layer == last:
      kernel = weight.reshape(len(weight), towers, -1).transpose(1, 2, 0)
    else:
      inputs = weight.shape[1]
      by_map = weight.reshape(towers, -1, maps or inputs, inputs // (maps or inputs))
      kernel = by_map.transpose(0, 3, 2, 1).reshape(towers, inputs, -1)
      maps = 0
    bias = bias if layer == last else bias.reshape(towers, -1)
    params[layer] = {'kernel': kernel, 'bias': bias}
  return jax.tree.map(lambda x: np.array(x, np.float32, order='C'), params)


def abstract_variables(model: ConfigDict | FrozenConfigDict) -> dict:
  """The variables of the network of `config.model`, as ShapeDtypeStructs; computes nothing."""
  image = jax.ShapeDtypeStruct((1, model.input_size, model.input_size, 3), jnp.float32)
  return jax.eval_shape(models.create(model).init, jax.random.key(0), image)


def planar_shapes(model: ConfigDict | FrozenConfigDict) -> dict[str, dict[str, tuple[int, ...]]]:
  """What `to_planar` gives for the network of `config.model`: `{layer: {'weight': shape, 'bias': shape}}`."""
  planar = jax.eval_shape(to_planar, abstract_variables(model)['params'])
  return {
    layer: {name: planar[layer][name].shape for name in ('weight', 'bias')}
    for layer in sorted(planar)
  }


def check_planar(model: ConfigDict | FrozenConfigDict, what: str) -> None:
  """Raises UserError where the network of `config.model` has no planar parameters, for `what`."""
  strange = [
    name
    for name in model.layers
    if is_local(name) or (is_dense(name) and not model[name].get('exchange', True))
  ] + ['batch normalisation'] * (model.norm == 'batch')
  if strange:
    raise UserError(
      f'{what} has no room for {", ".join(strange)}, only for convolutions and for fully connected layers '
      'that see all towers: choose --format=safetensors'
    )


def check_shapes(
  expected: Mapping[str, tuple[int, ...]],
  found: Mapping[str, tuple[int, ...]],
  what: str,
  network: str,
) -> None:
  """Raises UserError, with the shapes expected and found of each tensor, where two sets differ.

  Args:
    expected: shapes by the tensor's name in the file.
    found: the same, as they are.
    what: the file.
    network: what it should hold, in words.
  """
  text = lambda shape: str(list(shape)) if shape is not None else 'nothing'
  strange = [name for name in found if name not in expected]
  differing = [
    f'{name}: expected {text(expected.get(name))}, found {text(found.get(name))}'
    for name in (*expected, *strange[:_SHOWN])
    if expected.get(name) != found.get(name)
  ]
  if len(strange) > _SHOWN:
    differing.append(f'and {len(strange) - _SHOWN} more that are not expected')
  if differing:
    raise UserError(
      f'{what} does not hold {network} ({"; ".join(differing)}): name its weights, or the config that '
      'they are for'
    )


def dropout_factor(model: ConfigDict | FrozenConfigDict) -> float:
  """What dropout multiplies by outside of training: 1 where it is inverted (FACTS section 1.4)."""
  return 1.0 if model.dropout.inverted else 1.0 - model.dropout.rate


def function_of(model: ConfigDict | FrozenConfigDict) -> dict[str, object]:
  """The choices of `config.model` that decide what it computes of given parameters, by their keys."""
  values = model.to_dict()
  function = {key: values[key] for key in ('activation', 'gray', 'layers', 'towers')}
  used = set()
  for layer in model.layers:
    choices = {key: x for key, x in values[layer].items() if key not in _FREE}
    dropped = {'norm', 'map_norm'} if model.norm == 'none' else set()
    dropped |= {'dropout'} if dropout_factor(model) == 1 else set()
    choices['then'] = tuple(x for x in choices.get('then', ()) if x not in dropped)
    used.update(choices['then'])
    function |= {f'{layer}.{key}': x for key, x in choices.items()}
  if used & {'norm', 'map_norm'}:
    function['norm'] = model.norm
  if 'dropout' in used:
    function |= {f'dropout.{key}': x for key, x in values['dropout'].items()}
  rooms = {'norm': 'lrn', 'map_norm': 'map_norm', 'pool': 'pool', 'avg_pool': 'pool'}
  for operation, room in rooms.items():
    if operation in used:
      function |= {f'{room}.{key}': x for key, x in values[room].items()}
  return function


def check_same_function(
  ours: ConfigDict | FrozenConfigDict, theirs: ConfigDict | FrozenConfigDict, what: str
) -> None:
  """Raises UserError where two `config.model`, ours and that of `what`, compute different things.

  Widths, classes, sizes of images, initial weights, dtype, dropout that does nothing outside of training, and
  constants that neither uses are free.
  """
  a, b = function_of(ours), function_of(theirs)
  differing = [
    f'config.model.{key} is {a.get(key)!r}, there {b.get(key)!r}'
    for key in sorted(a.keys() | b.keys())
    if a.get(key) != b.get(key)
  ]
  if differing:
    raise UserError(
      f'{what} is for another network than the config ({"; ".join(differing)}): choose the recipe, '
      'or the format, that fits'
    )
