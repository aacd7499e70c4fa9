"""An archive contains everything of a run that evaluation and export need."""

from conversion_helpers import run
import numpy as np
import pytest
from safetensors.numpy import load_file

from alexnet_jax.workdir import archive


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
  before = run(capsys, '--mode=eval', f'--workdir={source}', '--checkpoint=latest')
  after = run(capsys, '--mode=eval', f'--workdir={workdir}')
  assert after == before and before['top1_error'] > 0


def test_flatten_and_unflatten_are_inverse():
  tree = {'params': {'conv1': {'kernel': 1, 'bias': 2}}, 'statistics': 3}
  flat = archive.flatten(tree)
  assert flat == {'params/conv1/kernel': 1, 'params/conv1/bias': 2, 'statistics': 3}
  assert archive.unflatten(flat) == tree
