"""Stages c, d, h and i: training and inference compared with PyTorch, memory, and hours for ImageNet."""

import dataclasses
import itertools
import math
import statistics
import sys
import time
from typing import Any

import jax
from ml_collections import FrozenConfigDict

from alexnet_jax import models
from benchmarks import machine, sides
from benchmarks.gpu import device, plan, racers

_TRIAL_STEPS = 5
_IMAGENET = 1_281_167  # training images of ILSVRC-2012
_EPOCHS = 90
# A float32 update reads a parameter, its gradient and its velocity, and writes parameter and velocity.
_UPDATE_BYTES = 5 * 4
# The forms of PyTorch's network that are also tried compiled; each takes half a minute to compile.
_COMPILED_FORMS = ((True, True, 'slices'), (True, True, 'band'), (True, False, 'slices'))


def floor_seconds(context: plan.Context, config: FrozenConfigDict) -> dict[str, float]:
  """Returns the lower bound of a training step's time: its products and the memory traffic of its update.

  Uses the rates that the stage `ceilings` measured; without that stage the rates are measured here.
  """
  dtype, batch = config.model.dtype, config.train.batch_size
  table = models.layer_table(config.model)
  flops = batch * sides.train_flops(table)
  measured = context.result_of('ceilings')
  kind = 'bfloat16' if dtype == 'bfloat16' else 'tf32'
  if measured:
    rate, copy = 1e12 * measured['matmul_tflop_per_s'][kind], 1e9 * measured['copy_gb_per_s']
  else:
    rate, copy = machine.jax_matmul_rate(dtype), machine.copy_rate()
  update = _UPDATE_BYTES * sum(row['parameters'] for row in table) / copy
  return {'flops': flops, 'products_s': flops / rate, 'update_s': update}


def _report(times: dict[str, list[float]], batch: int, missing: dict[str, str]) -> dict[str, Any]:
  """Returns the speeds of all sides and the speed-up of this project over each other side."""
  speeds = {name: device.spread([batch / s for s in found]) for name, found in times.items()}
  peers = {name: speeds[name] for name in times if name != 'ours'}
  return {
    'images_per_s': speeds['ours'],
    'ms': device.spread(times['ours'], 1e3),
    'peers': peers | dict.fromkeys(missing, None),
    'ratio': {name: device.ratio(times[name], times['ours']) for name in peers}
    | dict.fromkeys(missing, None),
    'missing': missing,
  }


def training(context: plan.Context) -> dict[str, Any]:
  """Times training steps of this project and of PyTorch alternately."""
  dtype, batch = context.arguments['dtype'], racers.batch_of(context)
  config = racers.network(context.small, dtype, batch)
  inputs = sides.batches(config)
  ours = racers.Ours(config, inputs)
  peers, missing = racers.peers(context, config, ours.side.params(), inputs)
  works = {'ours': ours.training()} | {name: peer.training() for name, peer in peers.items()}
  first_call = {name: _first_call(work) for name, work in works.items()}
  times = device.race(works, **device.settings(context.small))
  last_loss = float(works['ours'].call(0))
  if not math.isfinite(last_loss):
    raise RuntimeError(f'the loss after the timed steps is not finite: {last_loss}')
  floor = floor_seconds(context, config)
  step = statistics.median(times['ours'])
  result = _report(times, batch, missing) | {
    'dtype': dtype,
    'batch': batch,
    'gflop_per_image': round(floor['flops'] / batch / 1e9, 3),
    'roofline_share': round(floor['products_s'] / step, 3),
    'roofline_share_with_update': round((floor['products_s'] + floor['update_s']) / step, 3),
    'compile_s': ours.side.compile_s,
    'first_call_s': first_call,
    'temporary_bytes': ours.side.train_step.memory_analysis().temp_size_in_bytes,
    'forms': {name: str(peer.form) for name, peer in peers.items()},
    'last_loss': last_loss,
  }
  return result | device.describe()


def _first_call(work: device.Work) -> float:
  """Returns the seconds of the first call, in which PyTorch compiles."""
  began = time.perf_counter()
  work.wait(work.call(0))
  return round(time.perf_counter() - began, 2)


def peer_form(context: plan.Context) -> dict[str, Any]:
  """Returns the form in which PyTorch's training step is fastest, eager and compiled."""
  reason = device.torch_reason()
  if reason:
    raise plan.Skip(reason)
  from benchmarks import torch_peer

  config = racers.network(context.small, context.arguments['dtype'], racers.batch_of(context))
  inputs = sides.batches(config)
  params = sides.Ours(config).params()
  target = device.set_up_torch(tf32=True)
  eager = [dataclasses.astuple(form) for form in torch_peer.forms(config.model)]
  if context.small:
    eager = eager[:2]
  compiled = [] if target == 'cpu' else list(_COMPILED_FORMS)
  trials: dict[str, dict[str, float]] = {'eager': {}, 'compiled': {}}
  best: dict[str, Any] = {}
  for kind, form in itertools.chain(
    zip(itertools.repeat('eager'), eager), zip(itertools.repeat('compiled'), compiled)
  ):
    mode = 'default' if kind == 'compiled' else None
    work = racers.Peer(config, params, form, inputs, target, mode).training()
    device.timed(
      work, _TRIAL_STEPS
    )  # in this call cuDNN selects its algorithms and PyTorch compiles
    seconds = min(device.timed(work, _TRIAL_STEPS) for _ in range(2))
    trials[kind][str(torch_peer.Form(*form))] = round(config.train.batch_size / seconds, 1)
    print(kind, form, round(seconds * 1e3, 2), 'ms', file=sys.stderr, flush=True)
    if seconds < best.get(kind, (math.inf,))[0]:
      best[kind] = seconds, form
  chosen = {kind: list(best[kind][1]) if kind in best else None for kind in trials}
  return chosen | {'images_per_s': trials} | device.describe()


def inference(context: plan.Context) -> dict[str, Any]:
  """Times the prediction of probabilities by this project and by PyTorch alternately."""
  dtype, batch = context.arguments['dtype'], racers.batch_of(context)
  config = racers.network(context.small, dtype, batch)
  inputs = sides.batches(config)
  ours = racers.Ours(config, inputs)
  peers, missing = racers.peers(context, config, ours.side.params(), inputs)
  works = {'ours': ours.inference()} | {name: peer.inference() for name, peer in peers.items()}
  times = device.race(works, **device.settings(context.small))
  flops = 2.0 * sum(row['macs'] for row in models.layer_table(config.model))
  result = _report(times, batch, missing) | {
    'dtype': dtype,
    'batch': batch,
    'gflop_per_image': round(flops / 1e9, 3),
    'compile_s': ours.side.compile_s,
  }
  return result | device.describe()


def memory(context: plan.Context) -> dict[str, Any]:
  """Measures peak memory and compile time of training steps of both sides, for increasing batch sizes."""
  jax.config.update('jax_enable_compilation_cache', False)
  dtype, rows = context.arguments['dtype'], []
  for batch in context.arguments['batches']:
    part = dataclasses.replace(context, arguments={'batch': batch})
    config = racers.network(context.small, dtype, racers.batch_of(part))
    inputs = sides.batches(config)
    ours = racers.Ours(config, inputs)
    device.timed(ours.training(), _TRIAL_STEPS)
    ours.inference()
    row = {
      'batch': config.train.batch_size,
      'peak_bytes': machine.peak_memory(),
      'compile_s': ours.side.compile_s,
      **sides.costs(ours.side, ours.side.train_step),
    }
    rows.append(row | {'peer_peak_bytes': _peer_peak(context, config, inputs, ours)})
  return {'dtype': dtype, 'rows': rows} | device.describe()


def _peer_peak(
  context: plan.Context, config: FrozenConfigDict, inputs: list, ours: racers.Ours
) -> int | None:
  """Returns the peak GPU memory of PyTorch's eager training step in bytes; None without a GPU."""
  if device.torch_reason() or jax.default_backend() == 'cpu':
    return None
  import torch

  target = device.set_up_torch(tf32=True)
  forms = context.result_of('peer_form') or {}
  form = tuple(forms.get('eager') or racers.DEFAULT_FORM)
  torch.cuda.reset_peak_memory_stats()
  peer = racers.Peer(config, ours.side.params(), form, inputs, target)
  device.timed(peer.training(), _TRIAL_STEPS)
  return torch.cuda.max_memory_allocated()


def imagenet(context: plan.Context) -> dict[str, Any]:
  """Computes the hours of 90 epochs of ImageNet from the speeds that other stages measured.

  Raises:
    plan.Skip: no training step has been timed.
  """
  rows = []
  for path in sorted(context.output.glob('training_*.json')):
    found = context.result_of(path.stem)
    if found:
      speed = found['images_per_s']['median']
      hours = round(_EPOCHS * _IMAGENET / speed / 3600, 3)
      rows.append({**{key: found[key] for key in ('dtype', 'batch')}, 'hours': hours})
  if not rows:
    raise plan.Skip('no training step has been timed')
  reading = context.result_of('input')
  host = None
  if reading:
    speeds = {form: max(by.values()) for form, by in reading['images_per_s'].items()}
    hours = {form: round(_EPOCHS * _IMAGENET / s / 3600, 3) for form, s in speeds.items()}
    host = {'images_per_s': speeds, 'hours': hours}
  return {
    'epochs': _EPOCHS,
    'images': _IMAGENET,
    'small': context.small,
    'steps': rows,
    'host': host,
  }
