"""The curve of a network that several runs have trained, one after the other."""

import json
import subprocess
import sys

from PIL import Image
import pytest
from tiny import ROOT

sys.path.insert(0, str(ROOT / 'experiments'))
import conv_local


def rows(epochs, rate):
  """Returns rows of metrics.jsonl, two an epoch, with the epoch as loss and ten times as much as error."""
  halves = [half / 2 for half in range(1, 2 * epochs + 1)]
  return [{'epoch': e, 'loss': e, 'train/top1_error': 10 * e, 'lr': rate} for e in halves]


def test_a_run_without_training_errors_is_refused(tmp_path, monkeypatch):
  (tmp_path / 'metrics.jsonl').write_text('{"step": 0}\n')
  flags = (
    f'--workdirs={tmp_path}',
    '--weights=weights/conv_local_13pct.safetensors',
    '--output=out.png',
  )
  monkeypatch.setattr(sys, 'argv', ['conv_local.py', *flags])
  with pytest.raises(conv_local.runs_lib.Refused, match='has no training errors'):
    conv_local.main()


def test_points_are_means_of_four_epochs_and_the_second_run_follows_the_first():
  points = conv_local.curve([[*rows(6, 0.1), {'epoch': 6.0, 'val/loss': 1.0}], rows(2, 0.01)])
  assert [(p['epoch'], p['lr']) for p in points] == [(4.0, 0.1), (6.0, 0.1), (8.0, 0.01)]
  assert [p['loss'] for p in points] == [2.25, 5.25, 1.25]
  assert [p['error'] for p in points] == [22.5, 52.5, 12.5]


@pytest.mark.long
def test_the_picture_of_a_network_in_weights_is_drawn(tmp_path):
  workdir, output = tmp_path / 'run', tmp_path / 'new' / 'out.png'
  workdir.mkdir()
  lines = ''.join(json.dumps(row) + '\n' for row in rows(4, 0.1))
  (workdir / 'metrics.jsonl').write_text(lines)
  weights = ROOT / 'weights' / 'conv_local_13pct.safetensors'
  program = [sys.executable, ROOT / 'experiments' / 'conv_local.py']
  flags = [f'--workdirs={workdir}', f'--weights={weights}', f'--output={output}']
  missing = [*program, '--workdirs=none', *flags[1:]]
  refused = subprocess.run(missing, cwd=ROOT, capture_output=True, text=True)
  assert refused.returncode == 2 and 'none/metrics.jsonl does not exist' in refused.stderr
  subprocess.run([*program, *flags], check=True, cwd=tmp_path)
  assert Image.open(output).width > 1000
  assert json.loads(output.with_suffix('.jsonl').read_text())['epoch'] == 4.0
