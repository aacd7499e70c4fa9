"""Measures the seconds from SIGTERM to the end of a full-size run: `python -m tests.faults.sigterm`.

A run may take 15 seconds and one step to stop. `--moments=evaluating,saving` selects moments. Every
run except the one that is stopped while it compiles is then resumed. Its metrics and its last state
must equal those of an undisturbed run, which is kept in --folder.
"""

import argparse
from collections.abc import Callable, Iterator
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from tiny import ROOT, command, read_metrics

from .harness import digest

BOUND = 15.0  # seconds; the run may take this time and one step to stop
OVERRIDES = (
  '--config.data.source=synthetic',
  '--config.data.synthetic.train=256',  # two steps in an epoch
  '--config.data.synthetic.validation=512',
  '--config.train.log_every=1',
  '--config.train.checkpoint_every=1',
  '--config.train.steps=4',
)


def start(workdir: pathlib.Path, cache: str) -> subprocess.Popen:
  """Starts the run. `cache` is the folder of the compilation cache, or '' for no cache."""
  line, env = command(
    f'--config={ROOT}/configs/alexnet.py:original', f'--workdir={workdir}', *OVERRIDES
  )
  env['JAX_COMPILATION_CACHE_DIR'] = cache
  return subprocess.Popen(
    line, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
  )


def compiling(lines: Iterator[str], workdir: pathlib.Path) -> None:
  next(text for text in lines if 'validation images of' in text)
  time.sleep(3)


def in_a_step(lines: Iterator[str], workdir: pathlib.Path) -> None:
  next(text for text in lines if text.startswith('step 1/'))
  time.sleep(1)


def evaluating(lines: Iterator[str], workdir: pathlib.Path) -> None:
  next(text for text in lines if text.startswith('step 2/'))
  time.sleep(2)


def saving(lines: Iterator[str], workdir: pathlib.Path) -> None:
  next(text for text in lines if text.startswith('step 1/'))
  while not list((workdir / 'checkpoints').glob('partial-*')):
    time.sleep(0.01)


MOMENTS = {
  'compiling': compiling,
  'in a step': in_a_step,
  'evaluating': evaluating,
  'saving': saving,
}


def finish(workdir: pathlib.Path, cache: str) -> tuple[list[dict], str]:
  """Trains to the end and returns the metrics and the digest of the last state."""
  with start(workdir, cache) as process:
    *_, last = process.stderr
  assert process.returncode == 0, last
  return read_metrics(workdir), digest(workdir)


def step_seconds(workdir: pathlib.Path) -> float:
  """Returns the duration of the last step under the load of the measurement, or 0.0 if no step was logged."""
  path = workdir / 'metrics.jsonl'
  rows = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
  speeds = [row['images_per_s'] for row in rows if 'images_per_s' in row]
  return round(128 / speeds[-1], 1) if speeds else 0.0


def stop(workdir: pathlib.Path, cache: str, wait_for: Callable) -> dict:
  """Starts a run, sends SIGTERM at the given moment, and returns the seconds to its end and its exit."""
  with start(workdir, cache) as process:
    wait_for(process.stderr, workdir)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    *_, last = process.stderr
    process.wait()
  seconds = round(time.monotonic() - began, 1)
  return {'seconds': seconds, 'exit_code': process.returncode, 'last_line': last.strip()}


def main() -> int:
  parser = argparse.ArgumentParser(prog='python -m tests.faults.sigterm', description=__doc__)
  parser.add_argument('--moments', default=','.join(MOMENTS))
  parser.add_argument(
    '--folder', default=os.path.join(tempfile.gettempdir(), 'alexnet_jax_sigterm')
  )
  parser.add_argument(
    '--output', default='', help='file to which the results are appended, as JSON lines'
  )
  options = parser.parse_args()
  folder, found = pathlib.Path(options.folder), []
  cache = str(folder / 'compiled')
  undisturbed = finish(folder / 'undisturbed', cache)
  for moment in filter(None, options.moments.split(',')):
    workdir = folder / moment.replace(' ', '-')
    shutil.rmtree(workdir, ignore_errors=True)
    cold = moment == 'compiling'
    one = {'moment': moment} | stop(workdir, '' if cold else cache, MOMENTS[moment])
    one['step_seconds'] = step_seconds(workdir)
    if not cold:
      one['resumed_exactly'] = finish(workdir, cache) == undisturbed
    found.append(one)
    print(json.dumps(one), flush=True)
    if options.output:
      with open(options.output, 'a') as file:
        file.write(json.dumps(one) + '\n')
  good = all(
    one['exit_code'] == 75
    and one['seconds'] <= BOUND + one['step_seconds']
    and one.get('resumed_exactly', True)
    for one in found
  )
  return 0 if good else 1


if __name__ == '__main__':
  sys.exit(main())
