"""Shows what --help, --helpfull and --version ask for; --help imports nothing that takes time."""

from collections.abc import Sequence
import os
import pathlib
import sys

from alexnet_jax.cli.declarations import FLAGS, MODES
from alexnet_jax.utils.shipped import shipped
from alexnet_jax.version import __version__


def text() -> str:
  """Returns the text of --help."""
  program = 'alexnet-jax' if pathlib.Path(sys.argv[0]).stem == 'alexnet-jax' else 'python main.py'
  lines = [
    f'Usage: {program} --config=CONFIG --workdir=DIR [--mode=MODE] [--config.KEY=VALUE ...]',
    '',
    'Flags (only the modes before a colon use the flag; defaults are in brackets):',
    f'  --config: FILE.py[:VARIANT], or the name of a shipped config: {", ".join(shipped())}.',
    '  --config.KEY=VALUE: sets a key of the config; --helpfull explains every key.',
    '  --version: prints the version.',
  ]
  for name, flag in FLAGS.items():
    default = f' [{flag.default}]' if flag.default else ''
    lines.append(f'  --{name}: {flag.text}{default}')
  return '\n'.join([*lines, '', 'Modes:', *(f'  {mode}: {MODES[mode]}' for mode in MODES)])


def show(argv: Sequence[str]) -> bool:
  """Prints the help or the version that a command line asks for; returns whether it asks for any.

  Raises:
    UserError: --helpfull is given with a config that cannot be loaded.
  """
  if '--version' in argv:
    print(f'alexnet_jax {__version__}')
    return True
  if not {'--help', '-h', '--helpfull'} & set(argv):
    return False
  shown = text()
  if '--helpfull' in argv:
    from alexnet_jax import config as config_lib
    from alexnet_jax.cli import flags, help

    config = config_lib.load_file(flags.take(flags.expand_home(argv), 'config')[0] or 'alexnet')
    shown += f'\n\nConfig keys, with the values of the config:\n{help.config_text(config)}'
  try:
    print(shown, flush=True)
  except BrokenPipeError:  # The reader, such as `head`, has left; Python flushes stdout once more.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  return True
