"""Stages that run `main.py`: equal bits over two runs and over a resume (b), and a training run (j)."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from benchmarks.gpu import plan

# XLA rejects unknown flags, and this flag has been renamed before.
_DETERMINISTIC = ('--xla_gpu_deterministic_ops=true', '--xla_gpu_exclude_nondeterministic_ops=true')
# The gradient of the max pooling that networks use, which is the hardest layer to compute deterministically.
_POOLING = """
import jax
from alexnet_jax.models import layers
pool = lambda x: layers.max_pool(x, window=3, stride=2, rounding='ceil').sum()
jax.block_until_ready(jax.jit(jax.grad(pool))(jax.random.normal(jax.random.key(0), (8, 27, 27, 16))))
"""
# Overrides that make `configs/alexnet.py` small, on the synthetic set.
_TINY = {
  'model.width': 1 / 16,
  'model.input_size': 67,
  'data.canvas.size': 72,
  'model.init': 'torch',
}
_SYNTHETIC = {'data.source': 'synthetic', 'log.tensorboard': False, 'mesh': '1,1'}


def overrides(values: Mapping[str, Any]) -> list[str]:
  """Returns config values as flags of `main.py`."""
  return [f'--config.{key}={value}' for key, value in values.items()]


def main_py(*args: str, seconds: float, share: float = 0.8, flags: str = '') -> str:
  """Runs `main.py` to its end and returns the JSON of its last line.

  Args:
    *args: arguments of the command.
    seconds: time limit in seconds.
    share: share of the GPU's memory that JAX may allocate.
    flags: additional XLA flags.

  Raises:
    RuntimeError: the command failed; the message has the end of its output.
  """
  env = os.environ | {'XLA_PYTHON_CLIENT_MEM_FRACTION': str(share)}
  env['XLA_FLAGS'] = f'{env.get("XLA_FLAGS", "")} {flags}'.strip()
  command = [sys.executable, str(plan.ROOT / 'main.py'), *args]
  done = subprocess.run(
    command, cwd=plan.ROOT, env=env, capture_output=True, text=True, timeout=max(seconds, 1)
  )
  if done.returncode:
    raise RuntimeError(
      f'{" ".join(command[1:])}: exit code {done.returncode}: {done.stderr[-800:]}'
    )
  return done.stdout.strip().splitlines()[-1]


def metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the lines of a run's metrics.jsonl."""
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def fresh(folder: pathlib.Path) -> pathlib.Path:
  """Returns an empty folder; a previous folder of that name is removed."""
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  return folder


def _deterministic_switch() -> str:
  """Returns the deterministic-operations flag with which XLA computes the gradient of max pooling."""
  for switch in _DETERMINISTIC:
    env = os.environ | {'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} {switch}'}
    done = subprocess.run(
      [sys.executable, '-c', _POOLING], cwd=plan.ROOT, env=env, capture_output=True, timeout=120
    )
    if done.returncode == 0:
      return switch
  raise RuntimeError(
    f'XLA accepts none of {", ".join(_DETERMINISTIC)}: {done.stderr.decode(errors="replace")[-300:]}'
  )


def _weights(workdir: pathlib.Path, seconds: float) -> dict[str, np.ndarray]:
  """Returns the weights of a run's last checkpoint."""
  path = workdir / 'weights.safetensors'
  args = ('--mode=export', f'--workdir={workdir}', '--format=safetensors', f'--output={path}')
  main_py(*args, '--checkpoint=latest', seconds=seconds, share=0.2)
  return load_file(path)


def _equal(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
  """Returns whether two sets of arrays have the same bits."""
  return a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() for k in a)


def reproducible(context: plan.Context) -> dict[str, Any]:
  """Checks that two deterministic runs, and a run that is stopped and resumed, give equal bits.

  Raises:
    RuntimeError: the weights or the losses of two runs differ, or training changed nothing.
  """
  folder, switch = fresh(context.output / 'work' / 'reproducible'), _deterministic_switch()
  steps = 4 if context.small else 20
  values = _SYNTHETIC | {
    'train.batch_size': 8 if context.small else 128,
    'data.synthetic.train': 40 if context.small else 2560,
    'data.synthetic.validation': 8,
    'train.log_every': 1,
    'train.checkpoint_every': steps // 2,
    'eval.views': 1,
    'model.dtype': 'float32' if context.small else 'bfloat16',
    **(_TINY if context.small else {}),
  }

  def train(name: str, count: int) -> None:
    where = f'--workdir={folder / name}'
    flags = overrides(values | {'train.steps': count})
    args = ('--config=configs/alexnet.py:original', where, *flags)
    main_py(*args, seconds=context.seconds, share=0.25, flags=switch)

  with ThreadPoolExecutor(3) as pool:
    list(pool.map(train, ('first', 'second', 'resumed'), (steps, steps, steps // 2)))
    train('resumed', steps)
    names = ('first', 'second', 'resumed')
    weights = list(pool.map(lambda name: _weights(folder / name, context.seconds), names))
  losses = {
    name: [row['loss'] for row in metrics(folder / name) if 'loss' in row] for name in names
  }
  result = {
    'switch': switch,
    'steps': steps,
    'losses': losses['first'],
    'two_runs_equal': _equal(*weights[:2]) and losses['first'] == losses['second'],
    'resume_equal': _equal(weights[0], weights[2]) and losses['first'] == losses['resumed'],
  }
  shutil.rmtree(folder)
  if len(set(losses['first'])) < 2 or len(losses['first']) != steps:
    raise RuntimeError(f'training changed nothing: {losses}')
  if not (result['two_runs_equal'] and result['resume_equal']):
    raise RuntimeError(f'runs differ: {result | {"losses": losses}}')
  return result


def waiting(
  context: plan.Context, source: str, batch: int, seconds: float
) -> dict[str, float | int]:
  """Trains with `main.py` on a source; returns the share of its time that it waited for images."""
  workdir = fresh(context.output / 'work' / 'waiting')
  every = 2 if context.small else 20
  values = _SYNTHETIC | {
    'data.source': source,
    'data.cache_mib': 0,
    'train.batch_size': batch,
    'train.steps': 3 * every if context.small else 10 * every,
    'train.log_every': every,
    'train.evaluate': False,
    'model.dtype': 'float32' if context.small else 'bfloat16',
    **(_TINY if context.small else {}),
  }
  main_py(
    '--config=configs/alexnet.py', f'--workdir={workdir}', *overrides(values), seconds=seconds
  )
  rows = [row for row in metrics(workdir) if 'data_wait_frac' in row]
  shutil.rmtree(workdir)
  if not rows:
    raise RuntimeError(f'the run on {source} wrote no data_wait_frac')

  def middle(key):
    return statistics.median(row[key] for row in rows)

  return {
    'batch': batch,
    'data_wait_frac': middle('data_wait_frac'),
    'images_per_s': middle('images_per_s'),
    'log_lines': len(rows),
  }


def cifar10(context: plan.Context) -> dict[str, Any]:
  """Trains `conv_local_11pct` on CIFAR-10 for as many epochs as fit and returns its error.

  Two short runs of one and of three epochs measure the time of an epoch. If not all of the config's epochs
  fit, the boundaries of its schedule are scaled in proportion.

  Raises:
    plan.Skip: no source was given.
  """
  if not context.cifar10:
    raise plan.Skip('no source of CIFAR-10 was given (--cifar10=folder:PATH or store:PATH)')
  base = {'data.source': context.cifar10, 'log.tensorboard': False, 'train.log_every': 50}
  if context.small:
    base |= {'train.batch_size': 16, 'train.log_every': 2, 'eval.batch_size': 16}
  command = '--config=configs/cifar10.py:conv_local_11pct'
  began = time.monotonic()

  def run(name: str, values: Mapping[str, Any], seconds: float) -> tuple[dict[str, Any], float]:
    workdir, start = fresh(context.output / 'work' / name), time.monotonic()
    line = main_py(command, f'--workdir={workdir}', *overrides(base | values), seconds=seconds)
    return json.loads(line), time.monotonic() - start

  one = run('cifar10_trial', {'train.epochs': 1.0}, context.seconds)[1]
  two = run('cifar10_trial', {'train.epochs': 3.0}, context.seconds)[1]
  epoch = max((two - one) / 2, 1e-3)
  left = context.seconds - (time.monotonic() - began)
  most = 3 if context.small else 520
  epochs = int(max(1, min(most, (0.8 * left - one) / epoch)))
  values = {
    'train.epochs': float(epochs),
    'optim.boundaries': f'({epochs * 500 / 520:.4f},{epochs * 510 / 520:.4f})',
  }
  result, took = run('cifar10', values, left)
  rows = metrics(context.output / 'work' / 'cifar10')
  speeds = [row['images_per_s'] for row in rows if 'images_per_s' in row]
  if not np.isfinite(result['loss']):
    raise RuntimeError(f'the training ended with {result}')
  return {
    'config': 'configs/cifar10.py:conv_local_11pct',
    'epochs': epochs,
    'epochs_of_config': 520,
    'seconds': round(took, 1),
    'images_per_s': statistics.median(speeds) if speeds else None,
    'result': result,
    'errors': [
      {key: row[key] for key in ('step', 'epoch', 'val/top1_error')}
      for row in rows
      if row.get('val/top1_error') is not None
    ][-10:],
  }
