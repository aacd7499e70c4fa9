"""The table of a network's layers: output shapes, parameters and multiply-adds."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict

from alexnet_jax.errors import UserError
from alexnet_jax.models import spec
from alexnet_jax.models.alexnet import create, intermediate_key


def abstract_variables(model: ConfigDict | FrozenConfigDict) -> dict:
  """Returns the variables of the network of `config.model` as ShapeDtypeStructs, and computes nothing."""
  image = jax.ShapeDtypeStruct((1, model.input_size, model.input_size, 3), jnp.float32)
  return jax.eval_shape(create(model).init, jax.random.key(0), image)


def layer_table(config: ConfigDict | FrozenConfigDict) -> list[dict[str, Any]]:
  """Describes each layer of `config.model` without computing anything.

  Args:
    config: `config.model`.

  Returns:
    One row for each layer with parameters, and one for each pooling layer: `layer` (its name), `output`
    (shape (H, W, C) or (C,) over all towers), `parameters`, and `macs` (multiply-adds of one image, forward).

  Raises:
    UserError: the network cannot be built as the config says, or its input is too small.
  """
  module = create(config)
  config = module.config
  image = jax.ShapeDtypeStruct((1, config.input_size, config.input_size, 3), jnp.float32)
  init = functools.partial(module.init, capture_intermediates=True, mutable=True)
  variables = jax.eval_shape(init, jax.random.key(0), image)
  outputs, params = variables['intermediates'], variables['params']
  rows = []
  for layer in config.layers:
    out = outputs[layer]['__call__'][0]
    towers = [out] if hasattr(out, 'shape') else list(out)
    kernel, bias = params[layer]['kernel'], params[layer]['bias']
    if 0 in towers[0].shape or 0 in kernel.shape:
      raise UserError(
        f'config.model.input_size={config.input_size} is too small: the maps at {layer} have no pixels'
      )
    macs = math.prod(kernel.shape) * (1 if spec.is_local(layer) else _pixels(towers))
    rows.append(_row(layer, towers, [kernel, bias], macs))
    number = spec.number(layer)
    if config.norm == 'batch' and 'norm' in spec.operations(config, layer):
      norm = params[f'batch_norm{number}']
      towers = outputs[intermediate_key(layer, 'norm')][0]
      rows.append(_row(f'batch_norm{number}', towers, norm.values()))
    for kind in ('pool', 'avg_pool'):
      pooled = outputs.get(intermediate_key(layer, kind), ())
      rows.extend(_row(f'{kind}{number}', towers) for towers in pooled)
  return rows


def _row(name: str, towers: list, tensors=(), macs: int = 0) -> dict[str, Any]:
  """Returns the row of one layer, from the abstract outputs of its towers and its abstract parameters."""
  *space, maps = towers[0].shape[1:]
  return {
    'layer': name,
    'output': (*space, maps * len(towers)),
    'parameters': sum(math.prod(tensor.shape) for tensor in tensors),
    'macs': macs,
  }


def _pixels(towers: list) -> int:
  """Returns how many positions a map has; 1 for the outputs of a fully connected layer."""
  *space, _ = towers[0].shape[1:]
  return math.prod(space)
