"""Log messages, errors and colours on stderr."""

import logging
import os
import pathlib
import sys

from absl import flags
from absl import logging as absl_logging

BOLD, DIM, RED = '1', '2', '1;31'  # as terminals number them


def setup() -> None:
  """Sends our log messages to stderr as plain lines, and of other libraries' only the errors."""
  flags.FLAGS.mark_as_parsed()  # ours are in cli.py; absl's own keep their defaults
  absl_logging.use_absl_handler()
  absl_logging.set_verbosity(absl_logging.INFO)
  absl_logging.set_stderrthreshold('info')
  handler = absl_logging.get_absl_handler()
  handler.setFormatter(None)  # no prefix of time and file
  ours = pathlib.Path(__file__).parent.parent
  handler.addFilter(lambda record: _is_for_users(record, ours))
  sys.unraisablehook = _tell


def _is_for_users(record: logging.LogRecord, ours: pathlib.Path) -> bool:
  """What we say, and errors, but for what Orbax says again and again of a save whose failure we tell."""
  if pathlib.Path(record.pathname).is_relative_to(ours):
    return True
  return record.levelno >= logging.ERROR and not {'orbax', 'asyncio'} & set(
    pathlib.Path(record.pathname).parts
  )


def _tell(unraisable) -> None:
  """As Python does, but for what TensorStore's threads say, dozens of times, of such a save."""
  if str(unraisable.exc_value) != 'Event loop is closed':
    sys.__unraisablehook__(unraisable)


def warnings_only() -> None:
  """Leaves progress out of the log, as all but one of several processes should."""
  absl_logging.set_verbosity(absl_logging.WARNING)


def painted(text: str, code: str) -> str:
  """`text` in a colour where stderr is a terminal that shows them and NO_COLOR is not set."""
  plain = os.environ.get('NO_COLOR') or os.environ.get('TERM') == 'dumb'
  return text if plain or not sys.stderr.isatty() else f'\x1b[{code}m{text}\x1b[0m'


def say_error(error: object) -> None:
  """The one line of a mistake or a failure."""
  print(f'{painted("error:", RED)} {error}', file=sys.stderr)
