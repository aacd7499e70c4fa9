"""Trains one config with several seeds, evaluates each last checkpoint, and writes results/NAME.json.

  python launch/seeds.py --config=configs/elpv_defect.py --workdir=runs/elpv_defect --seeds=0,1,2 \
      --output=results/elpv_defect.json [--config.key=value ...]

Run again after a stop, it goes on where it was. The last checkpoint is evaluated, not the best, since the
best is chosen on the very images that measure it.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ('jax', 'flax', 'optax', 'numpy')


def main_py(*args: str) -> dict:
  """Runs main.py and returns the JSON of its last line; its log goes to stderr as it comes."""
  done = subprocess.run(
    [sys.executable, str(ROOT / 'main.py'), *args], stdout=subprocess.PIPE, text=True
  )
  if done.returncode:
    sys.exit(done.returncode)
  return json.loads(done.stdout.splitlines()[-1])


def hardware() -> str:
  """The processor's name and how many cores of it this process may use, and the accelerators."""
  import jax

  cpuinfo = pathlib.Path('/proc/cpuinfo')
  lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
  names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
  kinds = ', '.join(sorted({device.device_kind for device in jax.devices()}))
  cpu = names[0] if names else platform.processor()
  return f'{cpu}, {len(os.sched_getaffinity(0))} cores; JAX on {kinds}'


def one_seed(config: str, workdir: str, seed: int, overrides: list[str]) -> dict:
  """Trains `workdir`/seedN and evaluates its last checkpoint: `{'seed', 'train', 'eval'}`."""
  place = f'--workdir={workdir}/seed{seed}'
  trained = main_py(f'--config={config}', place, f'--config.seed={seed}', *overrides)
  evaluated = main_py('--mode=eval', place, '--checkpoint=latest')
  trained.pop('checkpoint')
  print(f'{config}, seed {seed}: {evaluated}', file=sys.stderr)
  return {'seed': seed, 'train': trained, 'eval': evaluated}


def spread(runs: list[dict]) -> dict:
  """Of the top-1 errors of `runs`."""
  errors = [run['eval']['top1_error'] for run in runs]
  return {
    'mean': statistics.mean(errors), 'min': min(errors), 'max': max(errors), 'seeds': len(errors)
  }  # fmt: skip


def circumstances() -> dict:
  """How, when and on what this program was run."""
  program = pathlib.Path(sys.argv[0]).name
  return {
    'command': f'python launch/{program} {" ".join(sys.argv[1:])}',
    'date': datetime.date.today().isoformat(),
    'hardware': hardware(),
    'versions': {name: importlib.metadata.version(name) for name in PACKAGES},
  }


def write(output: str, result: dict) -> None:
  """Writes a file of results, with the folder it is in."""
  path = pathlib.Path(output)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(result, indent=2) + '\n')


def main() -> None:
  """Reads the command line, runs, and writes the file."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  for name in ('config', 'workdir', 'seeds', 'output'):
    parser.add_argument(f'--{name}', required=True)
  options, overrides = parser.parse_known_args()
  runs = []
  for seed in options.seeds.split(','):
    runs.append(one_seed(options.config, options.workdir, int(seed), overrides))
    write(options.output, circumstances() | {'top1_error': spread(runs), 'runs': runs})


if __name__ == '__main__':
  main()
