"""Every key of a config is explained, once, where it stands."""

import subprocess

from tiny import ROOT, command, main

from alexnet_jax import config as config_lib
from alexnet_jax.cli import help as help_lib
from alexnet_jax.config import recipes


def test_every_key_is_explained():
  said = help_lib.explanations()
  assert [key for key in config_lib.flatten(recipes.paper()) if not said.get(key)] == []
  assert said['model.width'] == 'multiplies the features of every layer but the last'
  assert said['model.lrn.k'].startswith(
    'x / (k + alpha * sum x^2)^beta'
  )  # of the dictionary's line
  assert said['model.conv3.stride'] == said['model.conv1.stride'] == 'pixels between its places'
  assert said['optim.scaling.rule'].endswith('else none.')  # three lines above, joined


def test_the_page_is_of_these_keys():
  """After a change: python -m alexnet_jax.cli.help > docs/CONFIG.md"""
  assert (ROOT / 'docs' / 'CONFIG.md').read_text() == help_lib.table() + '\n'


def test_helpfull_has_the_values_of_the_config():
  result = main('--helpfull', '--config=configs/quickstart.py')
  assert result.returncode == 0, result.stderr
  assert '--config.model.width=0.125\n        multiplies the features' in result.stdout
  assert '--config.data.source=' not in main('--help').stdout


def test_help_into_a_reader_that_leaves():
  """As `| head` does: no traceback, and all is well."""
  line, env = command('--helpfull')
  with subprocess.Popen(
    line, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
  ) as process:
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == (b'', 0)
