"""The model card of an export describes the run and has valid metadata for the Hugging Face Hub."""

import json
import pathlib

from ml_collections import FrozenConfigDict
import numpy as np
import pytest
from tiny import ROOT, tiny_config
import yaml

from alexnet_jax import config as config_lib
from alexnet_jax.cli import main as main_lib
from alexnet_jax.evaluation import loading
from alexnet_jax.interop import model_card
from alexnet_jax.training.loop import train


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('run')
  layers = ('conv1', 'fc6', 'fc8')
  train(tiny_config(train__steps=5, train__log_every=1, model__layers=layers), folder)
  return folder


def export(workdir, output, form, capsys):
  args = [f'--workdir={workdir}', f'--format={form}', f'--output={output}']
  assert main_lib.main(['--mode=export', *args]) == 0
  return json.loads(capsys.readouterr().out)['model_card']


def test_the_card_has_recipe_data_errors_and_terms_of_use(workdir, tmp_path, capsys):
  card = export(workdir, tmp_path / 'net.safetensors', 'safetensors', capsys)
  assert card == str(tmp_path / 'README.md')
  _, head, text = (tmp_path / 'README.md').read_text().split('---\n', 2)
  head = yaml.safe_load(head)
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  error = [row['val/top1_error'] for row in rows if 'val/top1_error' in row][-1]
  (metric,) = head['model-index'][0]['results'][0]['metrics']
  assert metric['value'] == pytest.approx(1 - error / 100, abs=1e-4)
  assert head['license'] == 'other' and head['library_name'] == 'alexnet_jax'
  for part in (
    'recipe `original`',
    'two towers',
    '40 images of source `synthetic`, with 18 more for validation',
    f'| top-1 error %, 1 view(s), weights `last` | {error:.2f} |',
    'checkpoint of step 5',
    '--weights=net.safetensors',
    'Intended use',
    'Limits',
    '**name them here**',
  ):
    assert part in text, part
  assert '$' not in text


def test_the_card_of_bare_weights_describes_the_images(workdir, tmp_path, capsys):
  export(workdir, tmp_path / 'net.safetensors', 'pytorch', capsys)
  text = (tmp_path / 'README.md').read_text()
  with np.load(next(workdir.glob('statistics*.npz'))) as file:
    red = file['mean_image'].mean((0, 1))[0]
  assert (
    f'64 pixels of a canvas of 72 (fit `crop`), less the mean (`image`; its channels have {red:.4g}'
    in text
  )


def test_the_error_of_other_weights_is_no_result_of_the_file(workdir):
  trained = loading.load_alone(str(workdir), 'best', config_lib.load_workdir(workdir))
  assert model_card._errors(trained)[1]
  config = trained.config.to_dict()
  config['eval']['weights'] = 'ema'
  rows, index = model_card._errors(trained._replace(config=FrozenConfigDict(config)))
  assert 'weights `last`' in rows[0] and not index


def test_the_card_of_a_grey_network_says_that_channels_are_averaged(tmp_path, capsys):
  weights = ROOT / 'weights' / 'lenet5_mnist.safetensors'
  args = ['--mode=export', '--format=pytorch', f'--weights={weights}']
  assert main_lib.main([*args, f'--output={tmp_path / "net.safetensors"}']) == 0
  assert 'the mean of the channels is the input' in (tmp_path / 'README.md').read_text()


def test_an_existing_readme_is_kept(workdir, tmp_path, capsys):
  (tmp_path / 'README.md').write_text('mine')
  card = export(workdir, tmp_path / 'net.stablehlo', 'stablehlo', capsys)
  assert card == str(tmp_path / 'net.stablehlo.README.md')
  assert (tmp_path / 'README.md').read_text() == 'mine'
  assert 'jax.export.deserialize(open("net.stablehlo"' in (tmp_path / card).read_text()


def test_the_card_of_the_same_file_is_replaced(workdir, tmp_path, capsys):
  for name, card in (
    ('a.safetensors', 'README.md'),
    ('b.safetensors', 'b.safetensors.README.md'),
    ('a.safetensors', 'README.md'),
  ):
    (tmp_path / name).unlink(missing_ok=True)
    assert export(workdir, tmp_path / name, 'safetensors', capsys) == str(tmp_path / card)


def test_the_card_names_the_network_from_which_it_started(workdir, tmp_path):
  trained = loading.load_alone(str(workdir), 'best', config_lib.load_workdir(workdir))
  config = trained.config.to_dict()
  config['init_from'], config['data']['source'] = '/home/me/runs/first', 'tfds:mnist'
  trained = trained._replace(config=FrozenConfigDict(config))
  text = pathlib.Path(
    model_card.write(trained, 'safetensors', str(tmp_path / 'net.safetensors'))
  ).read_text()
  assert 'It started from layers of `first`.' in text and '/home/me' not in text
  assert 'license: other' in text and 'whose licence is CC BY-SA 3.0' in text
  assert 'terms of `first`, from whose layers it started, apply too: **name them here**' in text


def test_the_card_of_imported_weights_makes_no_claims(workdir, tmp_path, capsys):
  export(workdir, tmp_path / 'net.safetensors', 'safetensors', capsys)
  args = [f'--weights={tmp_path / "net.safetensors"}', f'--workdir={tmp_path / "run"}']
  assert main_lib.main(['--mode=import', '--format=safetensors', *args]) == 0
  (tmp_path / 'out').mkdir()
  capsys.readouterr()
  export(tmp_path / 'run', tmp_path / 'out' / 'net.safetensors', 'safetensors', capsys)
  text = (tmp_path / 'out' / 'README.md').read_text()
  assert (
    'not measured' in text
    and 'trained with' not in text
    and 'nothing is known about their training' in text
    and 'model-index' not in text
  )
