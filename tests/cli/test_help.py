"""--helpfull and docs/CONFIG.md contain the declared meanings of keys."""

import re

from tiny import ROOT

from alexnet_jax import config as config_lib
from alexnet_jax.cli import help as help_lib
from alexnet_jax.cli import main as main_lib
from alexnet_jax.config import recipes


def test_every_key_of_a_config_is_explained():
  config = config_lib.load_file('cifar10:conv_local_11pct')
  assert [name for name, _, key in help_lib._declared(config) if key is None] == []
  text = help_lib.config_text(config)
  assert '--config.model.local3.size=3\n        The side of the kernel. It must be' in text


def test_a_key_that_a_config_file_adds_is_shown_without_meaning():
  config = recipes.get('paper')
  with config.unlocked():
    config.mine = 3
  assert '  --config.mine=3\n  --config.' in help_lib.config_text(config)


def test_the_page_is_current():
  """To update it, run: python -m alexnet_jax.cli.help > docs/CONFIG.md"""
  assert (ROOT / 'docs' / 'CONFIG.md').read_text() == help_lib.page() + '\n'


def test_the_page_lists_every_key_once():
  page = help_lib.page()
  layers = [name for name in recipes.get('paper').model if re.fullmatch(r'(conv|fc)\d', name)]
  for key in config_lib.flatten(recipes.get('paper')):
    if key.split('.')[1:2] and key.split('.')[1] in layers:
      assert re.search(rf'^\| `model\.LAYER\.{key.split(".")[2]}` \|', page, re.MULTILINE), key
    else:
      assert page.count(f'| `{key}` |') == 1, key
  for layer in layers:
    assert page.count(f'| {layer} |') == 1


def test_helpfull_shows_the_values_of_the_config(capsys):
  assert main_lib.main(['--helpfull', f'--config={ROOT / "configs/quickstart.py"}']) == 0
  text = capsys.readouterr().out
  assert '--config.model.width=0.125\n        A factor that multiplies' in text
  assert '--config.data.source=' in text
  assert main_lib.main(['--help']) == 0
  assert '--config.data.source=' not in capsys.readouterr().out


def test_helpfull_for_an_unknown_config_is_an_error(capsys):
  assert main_lib.main(['--helpfull', '--config=quikstart']) == 2
  assert 'did you mean quickstart?' in capsys.readouterr().err
