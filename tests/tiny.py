"""A tiny config that runs the real code path in seconds, and the real command line around it."""

import json
import os
import pathlib
import subprocess
import sys

from ml_collections import ConfigDict

from alexnet_jax import recipes

ROOT = pathlib.Path(__file__).parent.parent


def tiny_config(variant: str = 'original', **overrides) -> ConfigDict:
  """A narrow net on 64-pixel crops of 72-pixel synthetic images; PyTorch's init, which fits it."""
  config = recipes.get(variant)
  recipes.apply(
    config,
    {
      'model.width': 1 / 16,
      'model.input_size': 64,
      'model.init': 'torch',
      'mesh': (1, 1),
      'data.source': 'synthetic',
      'data.canvas.size': 72,
      'data.synthetic.classes': 4,
      'data.synthetic.train': 40,
      'data.synthetic.validation': 18,
      'optim.unit': 'epoch',
      'optim.layer_rates': (),
      'train.batch_size': 8,
      'train.epochs': 4.0,
      'train.steps': 0,
      'train.log_every': 2,
      'train.checkpoint_every': 3,
      'eval.batch_size': 8,
      'eval.views': 1,
      'log.tensorboard': False,
    },
  )
  return recipes.apply(config, {key.replace('__', '.'): value for key, value in overrides.items()})


def read_metrics(workdir: pathlib.Path) -> list[dict]:
  """metrics.jsonl without what depends on the clock."""
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  return [
    {k: v for k, v in row.items() if k not in ('images_per_s', 'data_wait_frac')} for row in rows
  ]


def write_config(folder: pathlib.Path, **overrides) -> pathlib.Path:
  """A config file that gives `tiny_config` with overrides."""
  path = folder / 'tiny_experiment.py'
  path.write_text(
    f'import sys\nsys.path.insert(0, {str(ROOT / "tests")!r})\nfrom tiny import tiny_config\n\n\n'
    f'def get_config():\n  return tiny_config(**{overrides!r})\n'
  )
  return path


def command(*args: str) -> tuple[list[str], dict[str, str]]:
  """The command line and environment of `python main.py ARGS` on one CPU device."""
  env = os.environ | {'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': '1'}
  return [sys.executable, str(ROOT / 'main.py'), *args], env


def main(*args: str) -> subprocess.CompletedProcess:
  """Runs `python main.py ARGS` to its end."""
  line, env = command(*args)
  return subprocess.run(line, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300)
