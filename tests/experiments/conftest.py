"""A folder to make runs in where they do not matter themselves: a script that ends at once is main.py."""

import signal
import sys

import pytest
from tiny import ROOT

sys.path.insert(0, str(ROOT / 'experiments'))
import runs as runs_lib

# Answers as main.py does; `--fail=CODE` is a run that fails.
QUICK = """
import json, sys
flags = dict(word.partition('=')[::2] for word in sys.argv[1:])
if '--fail' in flags:
  sys.exit(int(flags['--fail']))
print(json.dumps({'step': 1, 'checkpoint': 'here', 'top1_error': 7.0, 'top5_error': 2.0, 'flags': flags}))
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
  """An empty folder that stands for the checkout, with a `main.py`; handlers of signals are put back."""
  handlers = {which: signal.getsignal(which) for which in (signal.SIGTERM, signal.SIGINT)}
  monkeypatch.setattr(runs_lib, 'ROOT', tmp_path)
  monkeypatch.setattr(runs_lib, 'hardware', lambda: 'a processor')
  (tmp_path / 'main.py').write_text(QUICK)
  yield tmp_path
  for which, handler in handlers.items():
    signal.signal(which, handler)
