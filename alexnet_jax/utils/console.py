"""Log messages, error lines and colours on stderr."""

import logging
import os
import pathlib
import sys

BOLD, DIM, RED = '1', '2', '1;31'  # ANSI codes
_DEVICES = 'jax._src.xla_bridge'  # the logger that warns of a GPU or TPU which JAX does not use


def setup() -> None:
  """Sends the log messages of this package to stderr as plain lines, and few of other libraries."""
  # Late, so that a missing package can be reported.
  from absl import flags
  from absl import logging as absl_logging

  flags.FLAGS.mark_as_parsed()  # cli/flags.py parses the flags; those of absl keep their defaults
  absl_logging.use_absl_handler()
  absl_logging.set_verbosity(absl_logging.INFO)
  absl_logging.set_stderrthreshold('info')
  handler = absl_logging.get_absl_handler()
  handler.setFormatter(None)  # no prefix of time and file
  package = pathlib.Path(__file__).parent.parent
  handler.addFilter(lambda record: _is_for_users(record, package))
  sys.unraisablehook = _report_unraisable


def _is_for_users(record: logging.LogRecord, package: pathlib.Path) -> bool:
  """Returns whether a message is from this package, an error of a library, or a warning about devices.

  Errors from Orbax and asyncio are dropped: they repeat a failed save that this package reports.
  """
  path = pathlib.Path(record.pathname)
  if path.is_relative_to(package):
    return True
  if record.name == _DEVICES:
    return record.levelno >= logging.WARNING
  return record.levelno >= logging.ERROR and not {'orbax', 'asyncio'} & set(path.parts)


def _report_unraisable(unraisable) -> None:
  """Reports like Python's default, but drops the error that TensorStore repeats after a failed save."""
  if str(unraisable.exc_value) != 'Event loop is closed':
    sys.__unraisablehook__(unraisable)


def warnings_only() -> None:
  """Logs warnings and errors only; with several processes, all but one do this."""
  from absl import logging as absl_logging

  absl_logging.set_verbosity(absl_logging.WARNING)


def painted(text: str, code: str) -> str:
  """Returns `text` in an ANSI colour, if stderr is a terminal with colours and NO_COLOR is not set."""
  plain = os.environ.get('NO_COLOR') or os.environ.get('TERM') == 'dumb'
  return text if plain or not sys.stderr.isatty() else f'\x1b[{code}m{text}\x1b[0m'


def say_error(error: object) -> None:
  """Prints the one line of a user's mistake or of a failed run."""
  print(f'{painted("error:", RED)} {error}', file=sys.stderr)
