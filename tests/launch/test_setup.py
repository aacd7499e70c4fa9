"""`launch/setup.sh` makes an environment and installs the packages, with a small stand-in for Python."""

import shlex
import shutil
import subprocess
import sys

import pytest
from tiny import ROOT

TIMEOUT = 60  # seconds after which a script that hangs fails its test

# This program stands in for Python. It records that it makes an environment, slowly, and that pip installs.
PYTHON = """
  case "$1 $2" in
    "-m venv")
      [ -z "${FAILS:-}" ] || exit 1
      echo venv >> log
      sleep 0.5
      mkdir -p .venv/bin
      cp "$0" .venv/bin/python
      echo 'export VIRTUAL_ENV=$PWD/.venv PATH=$PWD/.venv/bin:$PATH' > .venv/bin/activate
      ;;
    "-m pip")
      [ "$3" != --version ] || exit "$(cat no_pip 2>/dev/null || echo 0)"
      [ -z "${NO_WHEEL:-}" ] || exit 1
      echo pip >> log
      ;;
    "-m ensurepip") echo ensurepip >> log; echo 0 > no_pip ;;
    *) exec %s "$@" ;;
  esac
"""


@pytest.fixture
def set_up(tmp_path, stage):
  """Returns a function that starts setup.sh in a checkout without an environment."""
  (tmp_path / 'launch').mkdir()
  shutil.copy(ROOT / 'launch' / 'setup.sh', tmp_path / 'launch')
  for name in ('constraints.txt', 'requirements.txt'):
    (tmp_path / name).touch()
  stage.program('stand-in', PYTHON % shlex.quote(sys.executable))
  environment = stage.environment | {'PYTHON': str(stage.bin / 'stand-in'), 'VIRTUAL_ENV': ''}
  line = ['bash', '-euo', 'pipefail', '-c', 'source launch/setup.sh requirements.txt']

  def start(**more):
    return subprocess.Popen(
      line, cwd=tmp_path, env=environment | more, stderr=subprocess.PIPE, text=True
    )

  return start


def test_several_jobs_make_the_environment_once(set_up, tmp_path):
  for started in [set_up() for _ in range(3)]:
    assert started.wait(TIMEOUT) == 0, started.stderr.read()
  assert (tmp_path / 'log').read_text().split() == ['venv', 'pip']


def test_an_environment_that_cannot_be_made_is_an_error_with_a_remedy(set_up):
  failed = set_up(FAILS='1')
  assert failed.wait(TIMEOUT) == 2
  assert 'install the package python3-venv' in failed.stderr.read()


def test_an_environment_without_pip_is_kept(set_up, tmp_path):
  """uv makes such environments; they may hold a JAX for a GPU."""
  assert set_up().wait(TIMEOUT) == 0
  (tmp_path / '.venv' / 'kept').touch()
  (tmp_path / 'no_pip').write_text('1')
  (tmp_path / 'requirements.txt').write_text('another\n')
  assert set_up(PYTHON='').wait(TIMEOUT) == 0
  assert (tmp_path / '.venv' / 'kept').exists()
  assert (tmp_path / 'log').read_text().split() == ['venv', 'pip', 'ensurepip', 'pip']


def test_an_environment_whose_python_does_not_start_here_is_kept(set_up, tmp_path):
  """Its Python may belong to a module that is loaded on other nodes."""
  assert set_up().wait(TIMEOUT) == 0
  python = tmp_path / '.venv' / 'bin' / 'python'
  for content in (None, 'exit 127'):
    python.unlink()
    python.symlink_to('/nonexistent/python') if content is None else python.write_text(content)
    refused = set_up(PYTHON='')
    assert refused.wait(TIMEOUT) == 2
    assert 'load the module that it was made with, or remove .venv' in refused.stderr.read()
  assert (tmp_path / 'log').read_text().split() == ['venv', 'pip']
  assert set_up().wait(TIMEOUT) == 0  # a Python is named
  assert (tmp_path / 'log').read_text().split() == ['venv', 'pip', 'venv']


def test_an_environment_whose_creation_was_interrupted_is_made_again(set_up, tmp_path):
  assert set_up().wait(TIMEOUT) == 0
  (tmp_path / '.venv' / 'bin' / 'activate').unlink()  # the last file that is written
  refused = set_up()  # without the first file that is written, another tool has made it
  assert refused.wait(TIMEOUT) == 2
  assert '.venv is not an environment of venv' in refused.stderr.read()
  (tmp_path / '.venv' / 'pyvenv.cfg').touch()
  assert set_up().wait(TIMEOUT) == 0
  assert (tmp_path / 'log').read_text().split() == ['venv', 'pip', 'venv']


def test_an_active_environment_that_was_removed_is_not_used(set_up, tmp_path):
  assert set_up(VIRTUAL_ENV=str(tmp_path / 'gone')).wait(TIMEOUT) == 0
  assert (tmp_path / 'log').read_text().split() == ['venv', 'pip']


def test_packages_that_cannot_be_installed_are_an_error_with_a_remedy(set_up):
  failed = set_up(NO_WHEEL='1')
  assert failed.wait(TIMEOUT) == 2
  assert 'PYTHON=python3.12' in failed.stderr.read()
