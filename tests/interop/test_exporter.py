"""`--mode=export` refuses invalid input. The other tests in tests/interop read the exported files."""

from conversion_helpers import fail, run


def test_invalid_arguments_are_refused(runs, tmp_path, capsys):
  source = f'--workdir={runs / "original"}'
  out = ('--mode=export', source, f'--output={tmp_path / "out"}')
  assert 'needs --output' in fail(capsys, '--mode=export', source, '--format=stablehlo')
  assert '--format=onnx: choose one of' in fail(capsys, *out, '--format=onnx')
  assert 'config.model.towers is 2, there 1' in fail(capsys, *out, '--format=torchvision')
  (tmp_path / 'out').write_text('precious')
  assert 'exists already' in fail(capsys, *out, '--format=safetensors')
  assert (tmp_path / 'out').read_text() == 'precious'


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
