"""The JSON file beside exported weights makes their import complete."""

import json
import re

from conversion_helpers import assert_same, fail, params_of, run, trained
import numpy as np
import pytest
from tiny import write_config


def export(capsys, workdir, form, output):
  run(capsys, '--mode=export', f'--format={form}', f'--workdir={workdir}', f'--output={output}')


@pytest.mark.parametrize(
  ('form', 'name'), [('pytorch', 'net.safetensors'), ('cuda_convnet', 'net.npz')]
)
def test_an_import_with_a_sidecar_needs_no_other_arguments(runs, tmp_path, capsys, form, name):
  source, weights, workdir = runs / 'original', tmp_path / name, tmp_path / 'run'
  export(capsys, source, form, weights)
  made = run(
    capsys, '--mode=import', f'--format={form}', f'--weights={weights}', f'--workdir={workdir}'
  )
  assert made['classes'] == 6 and made['recipe'] == 'original'
  before, after = trained(source, 'latest'), trained(workdir)
  assert after.meta['class_names'] == before.meta['class_names']
  assert list(after.meta['class_counts']) == list(before.meta['class_counts'])
  for ours, theirs in zip(after.statistics, before.statistics, strict=True):
    np.testing.assert_array_equal(ours, theirs)
  assert_same(params_of(workdir), params_of(source))
  if form == 'pytorch':  # once is enough, because the tensors are equal
    evaluated = run(capsys, '--mode=eval', f'--workdir={workdir}')
    assert evaluated == run(capsys, '--mode=eval', f'--workdir={source}', '--checkpoint=latest')


def test_the_sidecar_describes_input_and_classes(runs, tmp_path, capsys):
  weights = tmp_path / 'net.safetensors'
  export(capsys, runs / 'original', 'pytorch', weights)
  content = json.loads((tmp_path / 'net.safetensors.json').read_text())
  network = trained(runs / 'original', 'latest')
  mean = np.asarray(network.statistics.mean_image).mean((0, 1))
  np.testing.assert_allclose(content['input']['mean'], mean, atol=1e-3)
  assert content['input']['channels'] == 'rgb' and content['input']['size'] == 64
  assert content['input']['gray'] is False
  assert content['class_names'] == network.meta['class_names']
  assert content['config']['mesh'] == list(network.meta['config'].mesh)


def test_weights_without_counts_have_no_majority_error(runs, tmp_path, capsys):
  """The most frequent class is unknown, because the training images are."""
  source, weights, workdir = runs / 'original', tmp_path / 'net.safetensors', tmp_path / 'run'
  export(capsys, source, 'pytorch', weights)
  (tmp_path / 'net.safetensors.json').unlink()
  names = tmp_path / 'names'
  names.write_text('\n'.join(trained(source, 'latest').meta['class_names']))
  config = write_config(tmp_path, data__synthetic__classes=6)
  run(
    capsys,
    '--mode=import',
    '--format=pytorch',
    f'--config={config}',
    f'--weights={weights}',
    f'--workdir={workdir}',
    f'--classes={names}',
  )
  assert run(capsys, '--mode=eval', f'--workdir={workdir}')['majority_error'] is None


def test_invalid_sidecars_are_refused(runs, tmp_path, capsys):
  weights, sidecar = tmp_path / 'net.safetensors', tmp_path / 'net.safetensors.json'
  export(capsys, runs / 'original', 'pytorch', weights)
  whole = sidecar.read_text()
  flags = (
    '--mode=import',
    '--format=pytorch',
    f'--weights={weights}',
    f'--workdir={tmp_path / "new"}',
  )
  for flag, message in (
    (
      'data.canvas.size=80',
      'config.data.canvas.size=80, but .* was exported with 72: leave it out',
    ),
    ('data.canvas.fit=warp', "canvas.fit='warp', but .* was exported with 'crop'"),
    ('augment.mean=none', "config.augment.mean='none', but .* was exported with 'image'"),
    ('augment.std=(1.,2.,3.)', r'config.augment.std=\(1.0, 2.0, 3.0\), but'),
  ):
    assert re.search(message, fail(capsys, *flags, f'--config.{flag}'))
  for damaged in (whole[:100], '[]', whole.replace('"version": 1', '"version": 2')):
    sidecar.write_text(damaged)
    assert 'cannot be read as the description of' in fail(capsys, *flags)
  for key in ('class_names', 'class_counts'):
    content = json.loads(whole)
    content[key].pop()
    sidecar.write_text(json.dumps(content))
    assert f"'{key}': 5" in fail(capsys, *flags)
  content = json.loads(whole)
  content['statistics']['mean_image']['shape'] = [36, 144, 3]
  sidecar.write_text(json.dumps(content))
  assert "'mean_image': (36, 144, 3)" in fail(capsys, *flags)
  assert not (tmp_path / 'new').exists()
  sidecar.write_text(whole)
  weights.write_bytes(weights.read_bytes() + b' ')
  assert 'describes other weights than' in fail(capsys, *flags)
