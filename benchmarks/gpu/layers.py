"""Stages e and f: the time of each layer, its lower bound, and the speed-up of each GPU layer.

The lower bound of a layer's time is the larger of two times: its products at the rate of a large matrix
product, and one read and one write of its arrays at the rate of a copy.
"""

from collections.abc import Callable, Mapping
import contextlib
import functools
import math
import pathlib
import statistics
import tempfile
import traceback
from typing import Any
from unittest import mock

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.models import alexnet, layers, towers
from alexnet_jax.models.layers import gpu, reference
from benchmarks import machine, profile_step, sides
from benchmarks.gpu import correct, device, plan, racers
from benchmarks.layers import LAYERS

_SETS = 3  # sets of inputs that take turns, so that no call finds its input in the cache
_AGREE = {'float32': 3e-3, 'bfloat16': 3e-2}  # a float32 product may use TF32
_DENSE = {'fc6': (9216, 2048), 'fc7': (4096, 2048), 'fc8': (2048, 1000)}
_TOWERS = 2
_SHARED = (
  'conv1',
  'conv3',
)  # the layers whose towers read the same maps; `LAYERS` has them with both towers
_STEPS = 5  # number of traced steps

Arrays = list[jax.Array]


class Inputs:
  """Returns random arrays on the device."""

  def __init__(self, dtype: str):
    self.dtype, self.rng = dtype, np.random.default_rng(0)

  def __call__(self, *shape: int) -> jax.Array:
    return jnp.asarray(self.rng.standard_normal(shape, np.float32), self.dtype)


def both_ways(layer: Callable, sets: list[Arrays], of_image: bool = False) -> device.Work:
  """Returns work that runs a compiled layer with the gradients of all arguments but images."""

  def both(g, *arrays):
    if of_image:
      y, pull = jax.vjp(functools.partial(layer, arrays[0]), *arrays[1:])
    else:
      y, pull = jax.vjp(layer, *arrays)
    return y, pull(g)

  shape = jax.eval_shape(layer, *sets[0])
  draw = Inputs(str(shape.dtype))
  gs = [draw(*shape.shape) for _ in sets]
  compiled = jax.jit(both).lower(gs[0], *sets[0]).compile()
  return device.Work(
    lambda i: compiled(gs[i % len(sets)], *sets[i % len(sets)]), jax.block_until_ready
  )


def shapes(name: str, batch: int, small: bool) -> tuple[str, dict, list[tuple[int, ...]]]:
  """Returns a layer's kind, its constants and the shapes of its arguments.

  conv1 and conv3, whose towers read the same maps, have the maps of both towers, the other layers those of
  one tower.
  """
  if name in _DENSE:
    width = tuple(n // 16 for n in _DENSE[name]) if small else _DENSE[name]
    return 'dense', {}, [(batch, width[0]), width]
  kind, constants, side, channels, size, features = LAYERS[name]
  if small:
    side, features = max(13, side // 4), features // 4
    channels = max(3, channels // 4)
  arrays = [(batch, side, side, channels)]
  if size:
    arrays += [(size, size, channels, features), (features,)]
  return kind, constants, arrays


def tower_shapes(name: str, batch: int, small: bool) -> list[tuple[int, ...]]:
  """Returns the shapes of the maps that a tower reads, and of the kernels and biases of all towers."""
  _, _, (maps, kernel, bias) = shapes(name, batch, small)
  features = bias[0] // (_TOWERS if name in _SHARED else 1)
  return [maps, (_TOWERS, *kernel[:-1], features), (_TOWERS, features)]


def _floor(kind: str, arrays: list[tuple[int, ...]], out: tuple[int, ...], item: int) -> dict:
  """Returns the FLOP and the bytes of a layer, forward and backward."""
  elements = [math.prod(shape) for shape in arrays]
  of_image = kind == 'conv' and arrays[0][-1] == 3
  flops = 0.0
  if kind in ('conv', 'dense'):
    macs = math.prod(out) * math.prod(arrays[1][:-1])
    flops = 2.0 * macs * (2 if of_image else 3)
  moved = 3 * sum(elements) + 2 * math.prod(out) - (elements[0] if of_image else 0)
  return {'flops': flops, 'bytes': moved * item}


def layer_table(context: plan.Context) -> dict[str, Any]:
  """Measures the milliseconds of each layer, forward and backward, and its share of the roofline.

  The layers have the maps that `shapes` names and run alone; in the network XLA fuses some layers with their
  neighbours. `traced` holds the time of each layer within a training step.
  """
  dtype, batch = context.arguments['dtype'], racers.batch_of(context)
  measured = context.result_of('ceilings')
  kind_of_product = 'bfloat16' if dtype == 'bfloat16' else 'tf32'
  rate = 1e12 * measured['matmul_tflop_per_s'][kind_of_product] if measured else None
  copy = 1e9 * measured['copy_gb_per_s'] if measured else None
  rate, copy = rate or machine.jax_matmul_rate(dtype), copy or machine.copy_rate()
  draw, rows = Inputs(dtype), []
  for name in [*(n for n in LAYERS if 'cifar' not in n), *_DENSE]:
    kind, constants, arrays = shapes(name, batch, context.small)
    layer = functools.partial(getattr(layers, kind), **constants)
    sets = [[draw(*shape) for shape in arrays] for _ in range(_SETS)]
    out = jax.eval_shape(layer, *sets[0]).shape
    work = both_ways(layer, sets, kind == 'conv' and arrays[0][-1] == 3)
    times = device.race({name: work}, **_settings(context.small))[name]
    floor = _floor(kind, arrays, out, jnp.dtype(dtype).itemsize)
    products, traffic = floor['flops'] / rate, floor['bytes'] / copy
    seconds = statistics.median(times)
    rows.append(
      {'layer': name, 'ms': device.spread(times, 1e3), **floor}
      | {'floor_ms': float(f'{1e3 * max(products, traffic):.3g}')}
      | {'bound_by': 'products' if products > traffic else 'memory'}
      | {'roofline_share': round(max(products, traffic) / seconds, 3)}
    )
  try:
    traced = _traced(context, dtype, batch)
  except (
    Exception
  ) as error:  # the profiler depends on the driver, and the table is complete without it
    traceback.print_exc()
    traced = {'rows': [], 'reason': plan.short(error)}
  result = {'dtype': dtype, 'batch': batch, 'towers': _TOWERS, 'layers': rows}
  return result | {'traced': traced} | device.describe()


def _settings(small: bool) -> dict[str, Any]:
  """Returns rounds that are shorter than the rounds of whole steps."""
  return device.settings(True) if small else {'rounds': 5, 'seconds': 0.1, 'warm': 0.2}


def _traced(context: plan.Context, dtype: str, batch: int) -> dict[str, Any]:
  """Returns the share of each layer in a training step, from the profiler, or the reason of its failure."""
  config = racers.network(context.small, dtype, batch)
  ours = racers.Ours(config, sides.batches(config))
  work = ours.training()
  device.timed(work, _STEPS)
  with tempfile.TemporaryDirectory() as name:
    with jax.profiler.trace(name):
      device.timed(work, _STEPS)
    spent = operations(pathlib.Path(name), ours.side.train_step.as_text())
  total = sum(spent.values())
  if not total:
    return {'rows': [], 'reason': 'the trace names no instruction of the program'}
  rows = [
    {'layer': layer, 'direction': direction, 'share': round(ns / total, 4)}
    for (layer, direction), ns in sorted(spent.items(), key=lambda item: -item[1])
  ]
  return {'rows': rows, 'reason': None}


def operations(folder: pathlib.Path, program: str) -> dict[tuple[str, str], float]:
  """Returns nanoseconds by layer and direction, from the trace in a folder and the text of the program.

  On a CPU the name of an event is an instruction. On a GPU it is a kernel, and its `hlo_op` names the
  instruction.
  """
  names = dict(profile_step._INSTRUCTION.findall(program))
  spent: dict[tuple[str, str], float] = {}
  (path,) = folder.rglob('*.xplane.pb')
  planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
  devices = [plane for plane in planes if plane.name.startswith('/device:GPU')]
  for plane in devices or planes:
    for line in plane.lines:
      if devices and not line.name.startswith('Stream'):
        continue  # a line that sums up the same events
      for event in line.events:
        key = dict(event.stats).get('hlo_op') if devices else event.name
        if key in names:
          layer_direction = profile_step.layer_of(names[key])
          spent[layer_direction] = spent.get(layer_direction, 0.0) + event.duration_ns
  return spent


# --- What the GPU layers gain


def _forms(name: str) -> tuple[str, dict[str, Callable]]:
  """Returns the kind of layer that is compared and its forms; the first form is the reference layer."""
  kind, constants, *_ = LAYERS[name.split()[0]]
  partial = functools.partial
  plain = {'plain': partial(getattr(reference, kind), **constants)}
  if kind == 'local_response_norm':
    forms = {m: partial(gpu.local_response_norm, method=m, **constants) for m in gpu.NORM_METHODS}
  elif kind in ('map_response_norm', 'max_pool'):
    forms = {'gpu': partial(getattr(gpu, kind), **constants)}
  elif name.endswith('towers'):
    shared = name.split()[0] in _SHARED
    methods = gpu.TOWER_METHODS if shared else gpu.TOWER_METHODS[:2]
    forms = {m: _of_towers(m, shared, constants) for m in methods}
    return kind, forms
  else:
    methods = gpu.CONV_METHODS[1:] if constants['stride'] > 1 else ('channels_first',)
    forms = {m: partial(gpu.conv, method=m, **constants) for m in methods}
  return kind, plain | forms


def _of_towers(method: str, shared: bool, constants: Mapping) -> Callable:
  def layer(*arrays):
    *xs, kernel, bias = arrays
    xs = [xs[0]] * _TOWERS if shared else xs
    return jnp.concatenate(gpu.tower_convs(xs, kernel, bias, method=method, **constants), -1)

  return layer


_COMPARED = (
  *('norm1', 'norm2', 'map_norm2', 'pool1', 'pool2', 'conv1', 'conv2', 'conv3'),
  *('conv1 towers', 'conv2 towers', 'conv3 towers', 'conv4 towers'),
)


def fast_layers(context: plan.Context) -> dict[str, Any]:
  """Measures the speed-up of each GPU layer over the reference layer, forward and backward together.

  A form that does not run, or whose numbers differ from the reference layer, is not timed; `failed` has the
  reasons.
  """
  dtype, batch = context.arguments['dtype'], racers.batch_of(context)
  draw, found, failed = Inputs(dtype), {}, {}
  for name in _COMPARED:
    kind, forms = _forms(name)
    _, _, arrays = shapes(name.split()[0], batch, context.small)
    of_image = kind == 'conv' and arrays[0][-1] == 3
    if name.endswith('towers'):
      maps, *parameters = tower_shapes(name.split()[0], batch, context.small)
      arrays = [maps] * (1 if name.split()[0] in _SHARED else _TOWERS) + parameters
    sets = [[draw(*shape) for shape in arrays] for _ in range(_SETS)]
    works, reasons = _usable(forms, sets, of_image, _AGREE[dtype])
    failed |= {f'{name} | {form}': reason for form, reason in reasons.items()}
    times = device.race(works, **_settings(context.small))
    plain = next(iter(forms))
    ratios = {form: device.ratio(times[plain], times[form]) for form in works}
    found[name] = {
      'ms': {form: device.spread(seconds, 1e3) for form, seconds in times.items()},
      'ratio': ratios,
      'fastest': max(ratios, key=lambda form, ratios=ratios: ratios[form]),
    }
  return {'dtype': dtype, 'batch': batch, 'layers': found, 'failed': failed} | device.describe()


def _usable(
  forms: Mapping[str, Callable], sets: list[Arrays], of_image: bool, tolerance: float
) -> tuple[dict[str, device.Work], dict[str, str]]:
  """Returns the work of the forms that run and agree with the first form, and the reasons for the others.

  An exception of the first form is passed on.
  """
  works, reasons = {}, {}
  expected = None
  for form, layer in forms.items():
    try:
      work = both_ways(layer, sets, of_image)
      arrays = jax.tree.leaves(jax.device_get(work.call(0)))
    except Exception as error:
      if expected is None:
        raise
      traceback.print_exc()
      reasons[form] = plan.short(error)
      continue
    expected = expected or arrays
    apart = [correct.error(a, b) for a, b in zip(arrays, expected, strict=True)]
    if max(apart) <= tolerance:
      works[form] = work
    else:
      reasons[form] = f'it differs from the reference layer by {apart}'
  return works, reasons


class JoinedConv(towers.TowerConv):
  """Replaces `TowerConv` by one convolution: joined where the towers share their input, else grouped."""

  @nn.compact
  def __call__(self, xs):
    shape = (len(xs), self.size, self.size, xs[0].shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape, math.prod(shape[1:4]))
    bias = self.param('bias', self.bias_init, (len(xs), self.features), math.prod(shape[1:4]))
    return gpu.tower_convs(xs, kernel, bias, self.stride, self.padding, 'joined')


def variants(context: plan.Context, dtype: str) -> dict[str, dict[str, Callable]]:
  """Returns the replacements in `models.layers` for each variant, in the forms that a stage found fastest."""
  found = (context.result_of(f'fast_layers_{dtype}') or {}).get('layers', {})
  norm = found.get('norm1', {}).get('fastest', 'fused')
  if norm == 'plain':
    norm = 'fused'
  norms = {
    'local_response_norm': functools.partial(gpu.local_response_norm, method=norm),
    'map_response_norm': gpu.map_response_norm,
  }
  pool = {'max_pool': gpu.max_pool}
  return {
    'plain': {},
    f'normalisation ({norm})': norms,
    'max pooling': pool,
    'joined towers': {'towers': JoinedConv},
    'all': norms | pool | {'towers': JoinedConv},
  }


_PLAIN = ('conv', 'tower_convs', 'local_response_norm', 'map_response_norm', 'max_pool')


@contextlib.contextmanager
def replaced(functions: Mapping[str, Callable]):
  """Replaces layers within a context: networks are traced with reference layers or the given functions."""
  plain = {n: getattr(reference, n) for n in _PLAIN if hasattr(reference, n)}
  with contextlib.ExitStack() as stack:
    for name, function in (plain | dict(functions)).items():
      owner, attribute = (alexnet, 'TowerConv') if name == 'towers' else (layers, name)
      stack.enter_context(mock.patch.object(owner, attribute, function))
    yield


def fast_step(context: plan.Context) -> dict[str, Any]:
  """Measures the speed-up of a training step by GPU layers in place of the reference layers.

  A variant that does not run, or whose first loss differs from the loss with the reference layers, is not
  timed; `failed` has the reasons.
  """
  dtype, batch = context.arguments['dtype'], racers.batch_of(context)
  config = racers.network(context.small, dtype, batch)
  inputs = sides.batches(config)
  works, losses, failed = {}, {}, {}
  for name, functions in variants(context, dtype).items():
    try:
      with replaced(functions):
        work = racers.Ours(config, inputs).training()
      losses[name] = float(work.call(0))
    except Exception as error:
      if not works:  # the reference layers
        raise
      traceback.print_exc()
      failed[name] = plan.short(error)
      continue
    if abs(losses[name] / losses['plain'] - 1) <= _AGREE[dtype]:
      works[name] = work
    else:
      failed[name] = f'its first loss differs from that of the reference layers: {losses}'
  times = device.race(works, **device.settings(context.small))
  result = {
    'dtype': dtype,
    'batch': batch,
    'ms': {name: device.spread(seconds, 1e3) for name, seconds in times.items()},
    'ratio': {name: device.ratio(times['plain'], seconds) for name, seconds in times.items()},
    'first_losses': losses,
    'failed': failed,
  }
  return result | device.describe()
