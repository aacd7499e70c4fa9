"""Tests and measures the project on a GPU within a time budget, the most important stages first.

  python -m benchmarks.gpu --output=DIR [--minutes=25] [--stages=a,b,...] [--cifar10=folder:PATH] [--keep]

Stages (--stages takes letters or names, --list prints them all):

  a  peak rates of the device: matrix products in bfloat16, TF32 and float32, and a copy
  b  correctness: every layer against float64; the network against PyTorch's network, and a step against the
     same step on the CPU; equal bits over two runs and over a resume; the two-device program for CUDA
  c  speed of training steps, compared with PyTorch eager and compiled
  d  speed of inference, compared with PyTorch
  e  time of each layer, compared with its lower bound
  f  speed-up of the GPU layers over the reference layers
  g  images per second that the host delivers, and whether training waits for them
  h  peak memory and compile time
  i  a training run on CIFAR-10 photographs, for as many epochs as fit (needs --cifar10)

Each stage runs in a separate process and writes DIR/STAGE.json when it ends. The same command resumes: it
repeats only the stages that have not succeeded with the same code, settings and device; with --keep, also
those that succeeded with other code are not repeated. A stage whose estimated time exceeds the rest of
--minutes is skipped. DIR/summary.json is written after each stage and lists the stages that ran, failed, were
skipped or were kept. Correctness comes first: c and d need the stage that compares losses, and e and f need
the stage that checks layers. The exit code is 0, or 3 if a stage failed; the last line names the failed
stages. It is 2 if a package is missing, or if there is a GPU that JAX does not see.

Without a GPU the stages run on the CPU at a small size, which tests the command; the figures have no use
then. Without PyTorch its figures are null, and the reason is recorded. TensorFlow is not needed. `python
-m benchmarks.gpu.tables DIR` renders the results.
"""

import argparse
from collections.abc import Sequence
from importlib import metadata
import importlib.util
import json
import pathlib
import shlex
import signal
import subprocess
import sys
import tomllib

from benchmarks.gpu import plan
from benchmarks.gpu.plan import Stage

_HALF = {'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.45'}  # PyTorch allocates memory on the same GPU
# Lowering needs no GPU, but it needs a mesh of four devices.
_FOUR_CPUS = {'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': '4'}
_LOSSES = ('correct_network',)
# The stages of these modules run `main.py` or read a store. They need every package of the core, the other
# stages only those of the network.
_WHOLE_CORE = ('benchmarks.gpu.commands', 'benchmarks.gpu.host')
_NETWORK = ('absl-py', 'flax', 'jax', 'ml_collections', 'numpy', 'optax')
_NO_GPU = 'JAX sees no GPU: install "jax[cuda13]" (or the build for your driver), or pass --small'


def _point(kind: str, letter: str, dtype: str, batch: int, estimate: float) -> Stage:
  """Returns a stage that times one dtype and batch size."""
  return Stage(
    f'{kind}_{dtype}_{batch}',
    letter,
    f'{kind} in {dtype}, batch {batch}, beside PyTorch',
    f'benchmarks.gpu.speed:{kind}',
    estimate,
    arguments={'dtype': dtype, 'batch': batch},
    needs=_LOSSES,
    uses=('ceilings',) if kind == 'training' else (),
    environment=_HALF,
  )


def _of_layers(name: str, letter: str, what: str, dtype: str, estimate: float) -> Stage:
  """Returns a stage that times layers at batch size 128."""
  return Stage(
    f'{name}_{dtype}',
    letter,
    f'{what}, {dtype}',
    f'benchmarks.gpu.layers:{name}',
    estimate,
    arguments={'dtype': dtype, 'batch': 128},
    needs=('correct_layers',),
    uses=('ceilings',) if name == 'layer_table' else (),
  )


STAGES = (
  Stage('ceilings', 'a', 'rates of products and copies', 'benchmarks.gpu.device:ceilings', 45),
  Stage(
    'correct_layers',
    'b',
    'every layer against float64, forward and gradient',
    'benchmarks.gpu.correct:check_layers',
    90,
    20,
  ),
  Stage(
    'correct_network',
    'b',
    "losses beside PyTorch's, and a step beside the CPU's",
    'benchmarks.gpu.correct:check_network',
    100,
    25,
    environment=_HALF,
  ),
  Stage(
    'peer_form',
    'c',
    "the fastest form of PyTorch's training step",
    'benchmarks.gpu.speed:peer_form',
    150,
    arguments={'dtype': 'bfloat16', 'batch': 128},
    needs=_LOSSES,
    environment=_HALF,
  ),
  _point('training', 'c', 'bfloat16', 128, 110),
  _point('training', 'c', 'bfloat16', 1024, 120),
  Stage(
    'reproducible',
    'b',
    'equal bits over two runs and over a resume',
    'benchmarks.gpu.commands:reproducible',
    100,
    45,
  ),
  _of_layers('fast_layers', 'f', 'gain of each GPU layer', 'bfloat16', 120),
  _of_layers('fast_step', 'f', 'gain of the GPU layers in a training step', 'bfloat16', 90),
  _of_layers('layer_table', 'e', 'each layer beside its floor', 'bfloat16', 60),
  _point('training', 'c', 'float32', 128, 110),
  Stage(
    'input',
    'g',
    'images a second from stores, and a run of main.py on them',
    'benchmarks.gpu.host:input_path',
    110,
    30,
  ),
  _point('inference', 'd', 'bfloat16', 128, 70),
  Stage(
    'memory',
    'h',
    'peak memory and time to compile',
    'benchmarks.gpu.speed:memory',
    70,
    arguments={'dtype': 'bfloat16', 'batches': [128, 1024]},
    environment=_HALF,
  ),
  Stage(
    'two_devices',
    'b',
    'the program of two devices, lowered for CUDA',
    'benchmarks.gpu.two_devices:check',
    30,
    20,
    environment=_FOUR_CPUS,
  ),
  Stage(
    'cifar10',
    'i',
    'a training of conv_local_11pct on CIFAR-10',
    'benchmarks.gpu.commands:cifar10',
    240,
    60,
  ),
  *(_point('training', 'c', 'bfloat16', batch, 110) for batch in (256, 512)),
  _point('inference', 'd', 'bfloat16', 1024, 70),
  *(_point('training', 'c', 'float32', batch, 110) for batch in (1024, 256, 512)),
  _point('inference', 'd', 'float32', 128, 70),
  _of_layers('fast_layers', 'f', 'gain of each GPU layer', 'float32', 120),
)


def parse(args: list[str] | None = None) -> argparse.Namespace:
  """Parses and checks the command line."""
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.gpu',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--output', type=pathlib.Path, help='folder for the results')
  parser.add_argument(
    '--minutes', type=float, default=25.0, help='time budget of the command in minutes (default 25)'
  )
  parser.add_argument(
    '--stages', default='', help='letters or names of stages, separated by commas (default: all)'
  )
  parser.add_argument('--cifar10', default='', help='folder:PATH or store:PATH')
  parser.add_argument(
    '--small',
    action=argparse.BooleanOptionalAction,
    help='run small stages; without a GPU the default',
  )
  parser.add_argument(
    '--keep',
    action='store_true',
    help='keep results that other code has measured on this device with these settings',
  )
  parser.add_argument('--list', action='store_true', help='print the stages and exit')
  options = parser.parse_args(args)
  if not options.list and not options.output:
    parser.error('--output=DIR is required: the folder for the results')
  if not options.minutes > 0:
    parser.error(f'--minutes={options.minutes:g}: it must be positive')
  if options.cifar10:
    form, _, path = options.cifar10.partition(':')
    if form not in ('folder', 'store') or not pathlib.Path(path).is_dir():
      parser.error(f'--cifar10={options.cifar10}: write folder:PATH or store:PATH of a folder')
    options.cifar10 = f'{form}:{pathlib.Path(path).resolve()}'
  try:
    names = [word for word in options.stages.split(',') if word]
    options.stages = plan.select(STAGES, names) if names else list(STAGES)
  except ValueError as error:
    parser.error(str(error))
  return options


def missing_packages(stages: Sequence[Stage]) -> list[str]:
  """Returns the requirements of these stages whose packages are not installed, as pyproject.toml has them."""
  project = tomllib.loads((plan.ROOT / 'pyproject.toml').read_text())['project']
  whole = any(stage.function.partition(':')[0] in _WHOLE_CORE for stage in stages)
  missing = []
  for requirement in project['dependencies']:
    name = requirement.partition('>')[0]
    try:
      if whole or name in _NETWORK:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
      missing.append(requirement)
  return missing


def has_gpu() -> bool:
  """Returns whether nvidia-smi or PyTorch finds a GPU."""
  commands = [['nvidia-smi']]
  if importlib.util.find_spec('torch'):
    program = 'import sys, torch; sys.exit(not torch.cuda.is_available())'
    commands.append([sys.executable, '-c', program])
  for command in commands:
    try:
      if not subprocess.run(command, capture_output=True, timeout=60, check=False).returncode:
        return True
    except (OSError, subprocess.TimeoutExpired):
      continue
  return False


def _mistake(message: str) -> SystemExit:
  """Prints a message about a mistake of the user; returns the exception that ends the command."""
  print(f'error: {message}', file=sys.stderr, flush=True)
  return SystemExit(2)


def device() -> tuple[str, str]:
  """Returns the platform and name of JAX's device, read in a separate process that releases the device."""
  program = 'import jax, json; d = jax.devices()[0]; print(json.dumps([d.platform, d.device_kind]))'
  done = subprocess.run(
    [sys.executable, '-c', program], stdout=subprocess.PIPE, text=True, check=False
  )
  if done.returncode:
    raise _mistake('JAX finds no device; its message is above')
  platform, kind = json.loads(done.stdout.splitlines()[-1])
  return platform, kind


def main() -> int:
  options = parse()
  if options.list:
    for stage in options.stages:
      print(f'{stage.letter}  {stage.name:24} {stage.estimate:4.0f} s  {stage.what}')
    return 0
  missing = missing_packages(options.stages)
  if missing:
    names = ', '.join(requirement.partition('>')[0] for requirement in missing)
    raise _mistake(f'packages are missing: {names}: run pip install {shlex.join(missing)}')
  # As Ctrl-C does: the stage that runs is stopped too.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  platform, kind = device()
  if platform == 'cpu' and not options.small and has_gpu():
    raise _mistake(_NO_GPU)
  small = platform == 'cpu' if options.small is None else options.small
  work = plan.Plan(
    options.stages,
    options.output.resolve(),
    kind,
    small,
    60 * options.minutes,
    options.cifar10,
    keep=options.keep,
  )
  size = 'small' if small else 'full'
  print(f'{len(options.stages)} stages, {size}, on {kind}', file=sys.stderr, flush=True)
  return work.run()


if __name__ == '__main__':
  sys.exit(main())
