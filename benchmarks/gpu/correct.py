"""The stages of letter b that compare numbers: layers with float64, and networks with PyTorch and the CPU.

The error of an array is |array - exact| / |exact| with Euclidean norms over all entries. An array with a
number that is not finite has an infinite error.
"""

from collections.abc import Callable
import functools
import traceback
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np

from alexnet_jax import steps
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.distributed import sharding
from alexnet_jax.models import layers
from alexnet_jax.models.layers import gpu, reference
from alexnet_jax.steps import optimizer
from benchmarks import sides
from benchmarks.gpu import device, plan, racers

# The largest error by precision: float32, TF32 products of float32 operands, and bfloat16.
TOLERANCE = {'float32': 2e-5, 'tf32': 3e-3, 'bfloat16': 2e-2}
_LOSS_TOLERANCE = {'float32': 2e-5, 'bfloat16': 2e-2}  # largest relative difference of losses
UPDATE_TOLERANCE = 3e-3  # largest error of the update of a float32 step, compared with the CPU's
_IN_USE = 'in use'  # the name of the form that networks use
_NORM = {'size': 5, 'k': 2.0, 'alpha': 0.05, 'beta': 0.75}
_POOL = {'window': 3, 'stride': 2, 'rounding': 'ceil'}
_SAME = {'stride': 1, 'padding': ((2, 2), (2, 2))}
_CONV1 = {'stride': 4, 'padding': ((0, 3), (0, 3))}


def exact_norm(x: jax.Array, axes: tuple[int, ...], size, k, alpha, beta) -> jax.Array:
  """Computes response normalisation in the dtype of `x`; `reference` always uses float32."""
  total = x * x
  for axis in axes:
    total = reference.neighbour_sum(total, size, axis)
  return x * (k + alpha * total) ** -beta


Case = tuple[Callable, dict[str, Callable], list[tuple[int, ...]]]


def cases(small: bool) -> dict[str, Case]:
  """Returns by name the exact layer, the forms of it that are checked, and the shapes of the arguments."""
  batch, side, maps = (2, 13, 16) if small else (8, 27, 96)
  return _convolutions(batch, side, maps, 35 if small else 227) | _other_layers(batch, side, maps)


def _convolutions(batch: int, side: int, maps: int, image: int) -> dict[str, Case]:
  """Returns the cases of layers with kernels."""
  partial = functools.partial
  x = (batch, side, side, maps)

  def convs(constants):
    return {
      _IN_USE: partial(layers.conv, **constants),
      'reference': partial(reference.conv, **constants),
      **{f'gpu {m}': partial(gpu.conv, method=m, **constants) for m in gpu.CONV_METHODS},
    }

  def towers(convolve):
    return lambda x, w, b: jnp.stack(convolve([x, x], w, b))

  local = partial(layers.locally_connected, size=3, stride=1, padding=((1, 1), (1, 1)))
  conv1, conv2 = (partial(reference.conv, **c) for c in (_CONV1, _SAME))
  kernels = [(11, 11, 3, maps), (maps,)], [(5, 5, maps, 32), (32,)]
  return {
    'conv1': (conv1, convs(_CONV1), [(batch, image, image, 3), *kernels[0]]),
    'conv2': (conv2, convs(_SAME), [x, *kernels[1]]),
    'two towers': (
      towers(partial(gpu.tower_convs, method='apart', **_SAME)),
      {_IN_USE: towers(partial(layers.tower_convs, **_SAME))}
      | {m: towers(partial(gpu.tower_convs, method=m, **_SAME)) for m in gpu.TOWER_METHODS},
      [x, *((2, *shape) for shape in kernels[1])],
    ),
    'dense': (
      reference.dense,
      {_IN_USE: layers.dense},
      [(batch, 64 * maps), (64 * maps, 64 if image < 100 else 4096)],
    ),
    'locally_connected': (
      local,
      {_IN_USE: local},
      [(batch, 6, 6, maps), (6, 6, 9 * maps, 32), (6, 6, 32)],
    ),
  }


def _other_layers(batch: int, side: int, maps: int) -> dict[str, Case]:
  """Returns the cases of normalisation and pooling."""
  partial = functools.partial
  x = [(batch, side, side, maps)]

  def forms(name, constants):
    return {
      _IN_USE: partial(getattr(layers, name), **constants),
      'reference': partial(getattr(reference, name), **constants),
      'gpu': partial(getattr(gpu, name), **constants),
    }

  norms = forms('local_response_norm', _NORM)
  del norms['gpu']
  for m in gpu.NORM_METHODS:
    norms[f'gpu {m}'] = partial(gpu.local_response_norm, method=m, **_NORM)
  exact = partial(exact_norm, **_NORM)
  average = partial(layers.avg_pool, **_POOL)
  return {
    'local_response_norm': (partial(exact, axes=(3,)), norms, x),
    'map_response_norm': (partial(exact, axes=(1, 2)), forms('map_response_norm', _NORM), x),
    'max_pool': (partial(reference.max_pool, **_POOL), forms('max_pool', _POOL), x),
    'avg_pool': (average, {_IN_USE: average}, x),
  }


def error(actual: Any, exact: Any) -> float:
  """Returns the error of an array, as the docstring of the module defines it."""
  actual, exact = (np.asarray(a).astype(np.float64) for a in (actual, exact))
  if actual.shape != exact.shape or not np.isfinite(actual).all():
    return float('inf')
  return float(np.linalg.norm(actual - exact) / np.linalg.norm(exact))


def _both(layer: Callable) -> Callable:
  """Returns a function that computes the output of a layer and the gradients of all its arguments."""

  def both(g, *arrays):
    y, pull = jax.vjp(layer, *arrays)
    return y, *pull(g.astype(y.dtype))

  return jax.jit(both)


def _layer_errors(case: Case, kind: str, rng: np.random.Generator) -> dict[str, list[float] | str]:
  """Returns for each form of a layer the errors of its output and of the gradient of each argument.

  If a form does not run, the reason takes the place of the errors.
  """
  exact, forms, shapes = case
  dtype = 'bfloat16' if kind == 'bfloat16' else 'float32'

  def rounded(values):
    return np.asarray(jnp.asarray(values, dtype)).astype(np.float64)

  arrays = [rounded(rng.standard_normal(shape)) for shape in shapes]
  with jax.enable_x64(True), jax.default_device(jax.devices('cpu')[0]):
    g = rounded(rng.standard_normal(jax.eval_shape(exact, *arrays).shape))
    expected = jax.device_get(_both(exact)(g, *arrays))
  precision = {'float32': 'highest', 'tf32': 'default'}.get(kind, 'default')
  errors: dict[str, list[float] | str] = {}
  for name, layer in forms.items():
    try:
      with jax.default_matmul_precision(precision):
        found = jax.device_get(_both(layer)(*(jnp.asarray(a, dtype) for a in (g, *arrays))))
    except Exception as exception:
      traceback.print_exc()
      errors[name] = plan.short(exception)
      continue
    errors[name] = [error(a, b) for a, b in zip(found, expected, strict=True)]
  return errors


def check_layers(context: plan.Context) -> dict[str, Any]:
  """Checks the output and the gradients of every form of every layer in each precision.

  A small run, which uses a CPU, leaves out TF32. A form fails if it does not run or if an error is above its
  tolerance.

  Raises:
    RuntimeError: a form that networks use has failed; the message lists all such forms.

  Returns:
    `errors` by layer, form and precision: the error of the output, then those of the gradients. `tolerance`
    has the largest allowed errors. `failed` has the reasons why forms that no network uses have failed.
  """
  rng, errors, failed = np.random.default_rng(), {}, {}
  kinds = {k: t for k, t in TOLERANCE.items() if not (context.small and k == 'tf32')}
  for name, case in cases(context.small).items():
    for kind, tolerance in kinds.items():
      for form, found in _layer_errors(case, kind, rng).items():
        label = f'{name} | {form} | {kind}'
        if isinstance(found, str):
          failed[label] = found
          continue
        errors[label] = [float(f'{value:.3g}') for value in found]
        if not all(value <= tolerance for value in found):
          failed[label] = f'{found} > {tolerance}'
  bad = [f'{label}: {why}' for label, why in failed.items() if label.split(' | ')[1] == _IN_USE]
  if bad:
    raise RuntimeError(f'{len(bad)} layers that networks use are wrong: {"; ".join(bad)}')
  return {'errors': errors, 'tolerance': kinds, 'failed': failed} | device.describe()


# --- The network


def _losses(config: FrozenConfigDict, inputs: list, target: str | None) -> list[list[float]]:
  """Returns the losses of some steps from the same weights: ours and, with a target, PyTorch's."""
  ours = racers.Ours(config, inputs)
  works = [ours.training()]
  if target:
    works.append(
      racers.Peer(config, ours.side.params(), racers.DEFAULT_FORM, inputs, target).training()
    )
  return [[float(work.call(i)) for i in range(len(inputs))] for work in works]


def check_network(context: plan.Context) -> dict[str, Any]:
  """Compares losses with PyTorch's, and a training step with the same step on the CPU.

  The losses are those of four steps on one batch without dropout. The learning rate is so high that the loss
  changes by more than the tolerance, so wrong gradients are noticed. With the paper's initial weights the
  logits would hardly depend on the image, so PyTorch's initializer is used, and the alpha of response
  normalisation is raised until it matters for the activations.

  Raises:
    RuntimeError: the sides differ by more than the tolerance, or the losses hardly changed.
  """
  reason = device.torch_reason()
  result: dict[str, Any] = {'torch_reason': reason, 'losses': {}, 'tolerance': _LOSS_TOLERANCE}
  target = None if reason else device.set_up_torch(tf32=False)
  for dtype, tolerance in _LOSS_TOLERANCE.items():
    config = ConfigDict(
      racers.network(context.small, dtype, 8 if context.small else 32, False, rate=0.1)
    )
    config.model.init = 'torch'
    config.model.lrn.alpha = 0.1
    config = FrozenConfigDict(config)
    with jax.default_matmul_precision('highest'):
      losses = _losses(config, sides.batches(config)[:1] * 4, target)
    apart = max(abs(a - b) / abs(b) for a, b in zip(losses[0], losses[-1], strict=True))
    moved = abs(losses[0][-1] / losses[0][0] - 1)
    result['losses'][dtype] = {'ours': losses[0], 'torch': losses[1] if target else None}
    result['losses'][dtype] |= {'apart': apart if target else None, 'moved': moved}
    if not apart <= tolerance:
      raise RuntimeError(f'{dtype}: the losses of the two sides differ by {apart:g}: {losses}')
    if not moved > tolerance:
      raise RuntimeError(f'{dtype}: the losses hardly moved, which proves nothing: {losses}')
  return result | {'against_cpu': _against_cpu(context)} | device.describe()


def _step_on(config: FrozenConfigDict, devices: list, batch: sides.Batch) -> tuple[float, Any]:
  """Returns the loss and the state of the optimizer after one step on the given devices."""
  axes = (mesh_lib.DATA, mesh_lib.TOWER)
  mesh = jax.make_mesh((1, 1), axes, (jax.sharding.AxisType.Auto,) * 2, devices=devices)
  state = steps.init_state(config, mesh)
  side = config.data.canvas.size
  mean = np.full((side, side, 3), 120, np.float32)
  statistics = Statistics(mean, np.eye(3, dtype=np.float32), np.full(3, 10, np.float32))
  rates = optimizer.rate_tree(config.optim, state.params, 0.01, 0.02, 0.0)
  inputs = (*jax.tree.map(np.float32, (rates, 0.1)), statistics)
  rates, colour, statistics = sharding.replicate(mesh, inputs)
  step = steps.make_train_step(config, mesh)
  state, loss = step(state, sharding.shard_batch(mesh, batch), rates, colour, statistics)
  return float(loss), jax.device_get(state.opt_state)


def _against_cpu(context: plan.Context) -> dict[str, float]:
  """Compares a step on the device with the same step on the CPU, with dropout and augmentation.

  Raises:
    RuntimeError: the loss or the update differs by more than another order of float32 sums explains.
  """
  config = ConfigDict(racers.network(context.small, 'float32', 8))
  config.data.canvas.size += 8
  config.augment.update({'crop': 'random', 'flip': True, 'mean': 'image', 'colour': 0.1})
  config = FrozenConfigDict(config)
  rng, side = np.random.default_rng(5), config.data.canvas.size
  batch = dict(sides.batches(config)[0])
  batch['image'] = rng.integers(0, 256, (8, side, side, 3), np.uint8)
  with jax.default_matmul_precision('highest'):
    here = _step_on(config, jax.devices()[:1], batch)
    with jax.default_device(jax.devices('cpu')[0]):
      there = _step_on(config, jax.devices('cpu')[:1], batch)
  loss = abs(here[0] - there[0]) / abs(there[0])
  pairs = zip(*map(jax.tree.leaves, (here[1], there[1])), strict=True)
  update = max(error(a, b) for a, b in pairs if np.abs(b).max() > 0)
  if not (loss <= 1e-5 and update <= UPDATE_TOLERANCE):
    raise RuntimeError(
      f'a step on the device and on the CPU differ: loss {loss:g}, update {update:g}'
    )
  return {'loss': loss, 'update': update}
