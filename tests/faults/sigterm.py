"""`python -m tests.faults.sigterm`: seconds from SIGTERM to the end, for the full-size net."""

import itertools
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from tiny import ROOT, command

CHOICES = (
  '--config.data.source=synthetic',
  '--config.data.synthetic.train=256',
  '--config.data.synthetic.validation=1024',
  '--config.train.log_every=1',
  '--config.train.checkpoint_every=1',
  '--config.train.epochs=50',
)


def run(workdir: pathlib.Path, moment: str) -> dict:
  """Starts, waits for `moment`, sends SIGTERM; returns seconds and exit code."""
  line, env = command(
    f'--config={ROOT}/configs/alexnet.py:original', f'--workdir={workdir}', *CHOICES
  )
  env['JAX_COMPILATION_CACHE_DIR'] = ''  # every start compiles
  with subprocess.Popen(
    line, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
  ) as p:
    steps, last = [], ''
    for text in p.stderr:
      last = text
      if text.startswith('step '):
        steps.append(time.monotonic())
      if moment == 'compiling' and 'validation images of' in text:
        time.sleep(3)
        break
      if moment == 'in a step' and len(steps) == 4:
        time.sleep(1)
        break
      if moment == 'evaluating' and text.startswith('step 4/'):
        time.sleep(2)
        break
      if moment == 'saving' and len(steps) == 3:
        while not list((workdir / 'checkpoints').glob('partial-*')):
          time.sleep(0.01)
        break
    began = time.monotonic()
    p.send_signal(signal.SIGTERM)
    for text in p.stderr:
      last = text
    p.wait()
  seconds = time.monotonic() - began
  between = [after - before for before, after in itertools.pairwise(steps)]
  return {
    'moment': moment,
    'seconds': round(seconds, 1),
    'step_seconds': round(min(between), 1) if between else None,
    'exit_code': p.returncode,
    'last_line': last.strip(),
  }


def main() -> int:
  with tempfile.TemporaryDirectory() as folder:
    found = []
    for moment in sys.argv[1:] or ('compiling', 'in a step', 'evaluating', 'saving'):
      found.append(run(pathlib.Path(folder) / moment.replace(' ', '-'), moment))
      print(json.dumps(found[-1]), flush=True)
  return 0 if all(one['exit_code'] == 75 for one in found) else 1


if __name__ == '__main__':
  sys.exit(main())
