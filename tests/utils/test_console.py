"""Log messages are plain lines, and colours need a terminal."""

import subprocess
import sys

from alexnet_jax.utils import console

LOGS = """
import logging, sys, threading
from absl import logging as absl_logging
from alexnet_jax.utils import console
from jax._src import xla_bridge
from alexnet_jax.errors import UserError
console.setup()
code = compile('absl_logging.info("a message"); absl_logging.warning("a warning")',
               console.__file__.replace('console', 'other'), 'exec')
exec(code)
logging.getLogger('library').warning('noise')
logging.getLogger('library').error('an error of a library')
xla_bridge.logger.info('noise')
xla_bridge.logger.warning('a GPU may be present')
console.warnings_only()
exec(code)
console.say_error(UserError('name the file'))
"""


def test_messages_are_plain_lines_for_users():
  done = subprocess.run([sys.executable, '-c', LOGS], capture_output=True, text=True, check=True)
  lines = done.stderr.splitlines()
  assert lines == [
    'a message',
    'a warning',
    'an error of a library',
    'a GPU may be present',
    'a warning',
    'error: name the file',
  ]
  assert not done.stdout


def test_colours_need_a_terminal(monkeypatch):
  monkeypatch.setenv('TERM', 'xterm')
  monkeypatch.delenv('NO_COLOR', raising=False)
  assert console.painted('x', console.RED) == 'x'
  monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
  assert console.painted('x', console.RED) == '\x1b[1;31mx\x1b[0m'
  monkeypatch.setenv('NO_COLOR', '1')
  assert console.painted('x', console.RED) == 'x'


def test_only_the_repeated_error_of_tensorstore_is_suppressed(capsys):
  class Unraisable:
    exc_type, exc_traceback, object, err_msg = RuntimeError, None, None, None

    def __init__(self, text):
      self.exc_value = RuntimeError(text)

  seen = []
  original, sys.__unraisablehook__ = sys.__unraisablehook__, seen.append
  try:
    console._report_unraisable(Unraisable('Event loop is closed'))
    console._report_unraisable(Unraisable('another error'))
  finally:
    sys.__unraisablehook__ = original
  assert [str(one.exc_value) for one in seen] == ['another error']
