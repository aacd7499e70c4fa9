"""Measures the time from the command to the first step, with and without cached compiled programs.

  python -m benchmarks.first_step [--config=configs/alexnet.py] [--rounds=3] [--config.KEY=VALUE ...]

Starts `main.py` on the synthetic set, unless overrides say otherwise, waits for the first line of
`metrics.jsonl`, and kills it. Each round starts it twice: with an empty compilation cache, and again with
the cache that the first start has filled. Prints one line of JSON with the median seconds of both and
their spread.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from benchmarks import machine

_MAIN = pathlib.Path(__file__).resolve().parent.parent / 'main.py'


def seconds(args: list[str], workdir: pathlib.Path, programs: pathlib.Path) -> float:
  """Returns the seconds from the start of the process to the first line of its log."""
  line = [sys.executable, str(_MAIN), *args, f'--workdir={workdir}', '--config.train.log_every=1']
  env = os.environ | {'JAX_COMPILATION_CACHE_DIR': str(programs)}
  log, began = workdir / 'metrics.jsonl', time.perf_counter()
  with subprocess.Popen(line, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as run:
    while not (log.exists() and log.read_text()):
      if run.poll() is not None:
        raise SystemExit(run.stderr.read().decode())
      time.sleep(0.01)
    took = time.perf_counter() - began
    run.kill()
  return took


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--config', default='configs/alexnet.py')
  parser.add_argument('--rounds', type=int, default=3)
  options, overrides = parser.parse_known_args()
  args = [f'--config={options.config}', '--config.data.source=synthetic', *overrides]
  times = {'without': [], 'with': []}
  for i in range(options.rounds):
    with tempfile.TemporaryDirectory() as name:
      folder = pathlib.Path(name)
      for kind in times:
        times[kind].append(seconds(args, folder / kind, folder / 'programs'))
    print(f'round {i + 1}', {kind: round(t[-1], 1) for kind, t in times.items()}, file=sys.stderr)
  result = {f'{kind}_kept_programs_s': machine.spread(values) for kind, values in times.items()}
  print(json.dumps({'args': args} | result | {'hardware': machine.hardware()}))


if __name__ == '__main__':
  main()
