"""What the programs that make many runs share: how runs are stopped."""

import signal
import sys
import time

from tiny import ROOT

sys.path.insert(0, str(ROOT / 'launch'))
import runs as runs_lib


def test_a_run_killed_as_it_ends_counts_as_stopped(tmp_path, monkeypatch):
  """Python's own end of a process no longer heeds main.py's handler: the signal kills, and is no failure."""
  monkeypatch.setattr(runs_lib, 'ROOT', tmp_path)
  monkeypatch.setattr(signal, 'signal', lambda *_: None)  # this process keeps its own
  (tmp_path / 'main.py').write_text(
    'import pathlib, time\npathlib.Path("up").touch()\ntime.sleep(60)\n'
  )
  runner = runs_lib.Runner(1)
  runner.start('run', ['--workdir=x'])
  while not (tmp_path / 'up').exists():
    time.sleep(0.05)
  assert runner.free == 0
  runner.stop()
  ((key, ended),) = runner.wait()
  assert (key, ended.code, ended.answers) == ('run', 75, [])
  assert runner.free == 0  # no other is started
