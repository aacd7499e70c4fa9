"""`--mode=export` refuses invalid input. The other tests in tests/interop read the exported files."""

import json

from conversion_helpers import fail, run
import numpy as np
import pytest
from safetensors.numpy import load_file

from alexnet_jax.errors import UserError
from alexnet_jax.interop import exporter
from alexnet_jax.workdir import archive


def test_invalid_arguments_are_refused(runs, tmp_path, capsys):
  source = f'--workdir={runs / "original"}'
  out = ('--mode=export', source, f'--output={tmp_path / "out.safetensors"}')
  assert 'needs --output' in fail(capsys, '--mode=export', source, '--format=stablehlo')
  assert '--format=onnx: choose one of' in fail(capsys, *out, '--format=onnx')
  assert 'config.model.towers is 2, there 1' in fail(capsys, *out, '--format=torchvision')
  (tmp_path / 'out.safetensors').write_text('precious')
  assert 'exists already' in fail(capsys, *out, '--format=safetensors')
  assert (tmp_path / 'out.safetensors').read_text() == 'precious'


def test_the_result_names_all_files(runs, tmp_path, capsys):
  output = tmp_path / 'net.npz'
  result = run(
    capsys,
    '--mode=export',
    '--format=cuda_convnet',
    f'--workdir={runs / "original"}',
    f'--output={output}',
  )
  assert result['bytes'] == output.stat().st_size and result['checkpoint'] == 0
  files = {result['output'], result['description'], result['model_card']}
  assert files == {str(path) for path in tmp_path.iterdir()}


def test_an_export_that_fails_can_be_repeated(runs, tmp_path, capsys, monkeypatch):
  output = tmp_path / 'net.npz'
  flags = (
    '--mode=export',
    '--format=cuda_convnet',
    f'--workdir={runs / "original"}',
    f'--output={output}',
  )

  def full(*args, **kwargs):
    raise UserError('the disk is full')

  with monkeypatch.context() as patch:
    patch.setattr(exporter.sidecar, 'write', full)
    assert 'the disk is full' in fail(capsys, *flags)
  assert not list(tmp_path.iterdir())
  description = tmp_path / 'net.npz.json'
  description.write_text('{"mine": 1}')
  assert 'no export wrote it: move it away' in fail(capsys, *flags)
  assert description.read_text() == '{"mine": 1}'
  description.write_text(json.dumps({'format': 'alexnet_jax weights'}))
  run(capsys, *flags)
  assert json.loads(description.read_text())['version'] == 1


@pytest.mark.parametrize('variant', ['original', 'original+batch_norm'])
def test_an_archive_contains_a_whole_run(runs, tmp_path, capsys, variant):
  out, again = tmp_path / 'net.safetensors', tmp_path / 'again.safetensors'
  source, workdir = runs / variant, tmp_path / 'run'
  run(capsys, '--mode=export', '--format=safetensors', f'--workdir={source}', f'--output={out}')
  run(capsys, '--mode=import', '--format=safetensors', f'--weights={out}', f'--workdir={workdir}')
  run(capsys, '--mode=export', '--format=safetensors', f'--workdir={workdir}', f'--output={again}')
  a, b = load_file(out), load_file(again)
  assert a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
  assert 'statistics/mean_image' in a and a['params/conv2/kernel'].shape[:3] == (2, 5, 5)
  assert any(name.startswith('batch_stats/') for name in a) == ('batch_norm' in variant)
  assert archive.read_metadata(again) == archive.read_metadata(out)
