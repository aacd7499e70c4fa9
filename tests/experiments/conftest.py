"""A checkout in which main.py is a script that ends at once, for tests of the programs that start runs."""

import signal
import sys

import pytest
from tiny import ROOT

sys.path.insert(0, str(ROOT / 'experiments'))
import runs as runs_lib

# Prints JSON as main.py does. With `--fail=CODE` it fails with this exit code.
STAND_IN = """
import json, sys
flags = dict(word.partition('=')[::2] for word in sys.argv[1:])
if '--fail' in flags:
  sys.exit(int(flags['--fail']))
print(json.dumps({'step': 1, 'checkpoint': 'here', 'top1_error': 7.0, 'top5_error': 2.0, 'flags': flags}))
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
  """A folder with a `main.py` that replaces the checkout. The signal handlers are restored at the end."""
  handlers = {which: signal.getsignal(which) for which in (signal.SIGTERM, signal.SIGINT)}
  monkeypatch.setattr(runs_lib, 'ROOT', tmp_path)
  monkeypatch.setattr(runs_lib, 'hardware', lambda: 'a processor')
  (tmp_path / 'main.py').write_text(STAND_IN)
  yield tmp_path
  for which, handler in handlers.items():
    signal.signal(which, handler)
