"""--help and --version answer without the libraries that take time to import."""

import subprocess
import sys

from tiny import ROOT, command

from alexnet_jax.cli import flags, usage
from alexnet_jax.cli import main as main_lib
from alexnet_jax.version import __version__


def test_help_lists_every_flag_and_mode():
  text = usage.text()
  for name, flag in flags.FLAGS.items():
    assert f'  --{name}: {flag.text}' in text
  for mode, meaning in flags.MODES.items():
    assert f'  {mode}: {meaning}' in text
  assert '--config.seed=' not in text


def test_help_imports_no_large_library():
  code = (
    'import sys\nfrom alexnet_jax.cli import main as cli\nassert cli.main(["--help"]) == 0\n'
    'assert not {"jax", "flax", "numpy", "tensorflow", "matplotlib"} & set(sys.modules)'
  )
  result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
  assert result.stdout.startswith('Usage: ')


def test_the_version_is_printed(capsys):
  assert main_lib.main(['--version']) == 0
  assert capsys.readouterr().out == f'alexnet_jax {__version__}\n'


def test_help_can_be_cut_off_by_a_pipe():
  """If the reader ends early, as in `| head`, there is no traceback and the exit code is 0."""
  line, env = command('--help')
  with subprocess.Popen(
    line, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
  ) as process:
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == (b'', 0)
