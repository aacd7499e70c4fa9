"""Stages c, d, h and i: training and inference compared with PyTorch, memory, and hours for ImageNet."""

from collections.abc import Callable, Mapping
import dataclasses
import itertools
import math
import statistics
import sys
import traceback
from typing import Any

import jax
from ml_collections import FrozenConfigDict

from alexnet_jax import models
from benchmarks import machine, sides
from benchmarks.gpu import device, plan, racers

_TRIAL_STEPS = 5
# A float32 update reads a parameter, its gradient and its velocity, and writes parameter and velocity.
_UPDATE_BYTES = 5 * 4
_OURS = 'ours'
# Calls of a side before its timing. In the mode `reduce-overhead` the third call is the first replay.
_FIRST_CALLS = 3
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
  ours = times[_OURS]
  return {
    'images_per_s': speeds[_OURS],
    'ms': device.spread(ours, 1e3),
    'peers': {name: speeds.get(name) for name in racers.MODES},
    'ratio': {
      name: device.ratio(times[name], ours) if name in times else None for name in racers.MODES
    },
    'missing': missing,
  }


def _started(
  starts: Mapping[str, Callable[[], device.Work]], missing: dict[str, str]
) -> tuple[dict[str, device.Work], dict[str, float]]:
  """Starts the sides; returns their work and the seconds of the first calls, in which PyTorch compiles.

  A side of PyTorch that fails is left out, and its reason is added to `missing`.
  """
  works, seconds = {}, {}
  for name, start in starts.items():
    try:
      work = start()
      first = device.timed(work, 1)
      device.timed(work, _FIRST_CALLS - 1)
    except Exception as error:
      if name == _OURS:
        raise
      traceback.print_exc()
      missing[name] = plan.short(error)
      continue
    works[name], seconds[name] = work, round(first, 2)
  return works, seconds


def _forms(
  peers: Mapping[str, racers.Peer], works: Mapping[str, device.Work]
) -> dict[str, dict[str, str]]:
  """Returns the forms of PyTorch's sides that were timed, and where these forms were chosen."""
  timed = {name: peer for name, peer in peers.items() if name in works}
  return {
    'forms': {name: str(peer.form) for name, peer in timed.items()},
    'forms_chosen_in': {name: peer.chosen_in for name, peer in timed.items()},
  }


def training(context: plan.Context) -> dict[str, Any]:
  """Times training steps of this project and of PyTorch alternately."""
  dtype, batch = context.arguments['dtype'], racers.batch_of(context)
  config = racers.network(context.small, dtype, batch)
  inputs = sides.batches(config)
  ours = racers.Ours(config, inputs)
  peers, missing = racers.peers(context, config, ours.side.params(), inputs)
  starts = {_OURS: ours.training} | {name: peer.training for name, peer in peers.items()}
  works, first_call = _started(starts, missing)
  times = device.race(works, **device.settings(context.small))
  last_loss = float(works[_OURS].call(0))
  if not math.isfinite(last_loss):
    raise RuntimeError(f'the loss after the timed steps is not finite: {last_loss}')
  floor = floor_seconds(context, config)
  step = statistics.median(times[_OURS])
  result = _report(times, batch, missing) | {
    'dtype': dtype,
    'batch': batch,
    'gflop_per_image': round(floor['flops'] / batch / 1e9, 3),
    'roofline_share': round(floor['products_s'] / step, 3),
    'roofline_share_with_update': round((floor['products_s'] + floor['update_s']) / step, 3),
    'compile_s': ours.side.compile_s,
    'first_call_s': first_call,
    'temporary_bytes': ours.side.train_step.memory_analysis().temp_size_in_bytes,
    'last_loss': last_loss,
  }
  return result | _forms(peers, works) | device.describe()


def peer_form(context: plan.Context) -> dict[str, Any]:
  """Returns the form in which PyTorch's training step is fastest, eager and compiled.

  A form that fails is left out; `failed` has the reasons.

  Raises:
    RuntimeError: no form runs.
  """
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
  failed: dict[str, str] = {}
  for kind, form in itertools.chain(
    zip(itertools.repeat('eager'), eager), zip(itertools.repeat('compiled'), compiled)
  ):
    mode = 'default' if kind == 'compiled' else None
    try:
      work = racers.Peer(config, params, form, inputs, target, mode).training()
      device.timed(work, _TRIAL_STEPS)  # cuDNN selects its algorithms and PyTorch compiles
      seconds = min(device.timed(work, _TRIAL_STEPS) for _ in range(2))
    except Exception as error:
      traceback.print_exc()
      failed[f'{kind}, {torch_peer.Form(*form)}'] = plan.short(error)
      continue
    trials[kind][str(torch_peer.Form(*form))] = round(config.train.batch_size / seconds, 1)
    print(kind, form, round(seconds * 1e3, 2), 'ms', file=sys.stderr, flush=True)
    if seconds < best.get(kind, (math.inf,))[0]:
      best[kind] = seconds, form
  if not best:
    raise RuntimeError(f'no form of the PyTorch network runs: {failed}')
  result = {kind: list(best[kind][1]) if kind in best else None for kind in trials}
  result['chosen_in'] = f'training in {config.model.dtype}, batch {config.train.batch_size}'
  return result | {'images_per_s': trials, 'failed': failed} | device.describe()


def inference(context: plan.Context) -> dict[str, Any]:
  """Times the prediction of probabilities by this project and by PyTorch alternately."""
  dtype, batch = context.arguments['dtype'], racers.batch_of(context)
  config = racers.network(context.small, dtype, batch)
  inputs = sides.batches(config)
  ours = racers.Ours(config, inputs)
  peers, missing = racers.peers(context, config, ours.side.params(), inputs)
  starts = {_OURS: ours.inference} | {name: peer.inference for name, peer in peers.items()}
  works, _ = _started(starts, missing)
  times = device.race(works, **device.settings(context.small))
  flops = 2.0 * sum(row['macs'] for row in models.layer_table(config.model))
  result = _report(times, batch, missing) | {
    'dtype': dtype,
    'batch': batch,
    'gflop_per_image': round(flops / 1e9, 3),
    'compile_s': ours.side.compile_s,
  }
  return result | _forms(peers, works) | device.describe()


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
    try:
      row['peer_peak_bytes'] = _peer_peak(context, config, inputs, ours)
    except Exception as error:  # such as too little memory
      row |= {'peer_peak_bytes': None, 'peer_reason': plan.short(error)}
    rows.append(row)
  return {'dtype': dtype, 'rows': rows} | device.describe()


def _peer_peak(
  context: plan.Context, config: FrozenConfigDict, inputs: list, ours: racers.Ours
) -> int | None:
  """Returns the peak GPU memory of PyTorch's eager training step in bytes; None without a GPU."""
  if device.torch_reason() or jax.default_backend() == 'cpu':
    return None
  import torch

  target = device.set_up_torch(tf32=True)
  form, _ = racers.form_of(context, 'eager')
  torch.cuda.reset_peak_memory_stats()
  peer = racers.Peer(config, ours.side.params(), form, inputs, target)
  device.timed(peer.training(), _TRIAL_STEPS)
  return torch.cuda.max_memory_allocated()
