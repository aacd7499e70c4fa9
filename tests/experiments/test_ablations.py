"""Ablations: one config with several changes, and the table and the picture of their errors."""

import json
import subprocess
import sys

import pytest
from tiny import ROOT

sys.path.insert(0, str(ROOT / 'experiments'))
import ablations


def run(change, seed, error):
  """Returns the record of a finished run; an unfinished one if `error` is None."""
  evaluation = None if error is None else {'top1_error': error}
  return {'variant': change, 'seed': seed, 'eval': evaluation}


def test_a_change_is_compared_with_the_unchanged_config_of_the_same_seed():
  """The differences of the seeds are 1 and 3, so that their mean is 2 and its standard error is 1."""
  runs = [
    run('unchanged', 0, 20.0),
    run('unchanged', 1, 30.0),
    run('tanh', 0, 21.0),
    run('tanh', 1, 33.0),
    run('no_norm', 0, 19.0),
    run('no_norm', 1, None),
    run('one_gpu', 0, None),
  ]
  found = ablations.summarise(runs)
  assert found['difference'] == {
    'tanh': {'mean': 2.0, 'standard_error': pytest.approx(1.0)},
    'no_norm': {'mean': -1.0, 'standard_error': None},
  }
  assert found['top1_error']['tanh'] == {'mean': 27.0, 'min': 21.0, 'max': 33.0, 'seeds': 2}
  assert 'one_gpu' not in found['top1_error']


def test_the_picture_shows_means_and_their_standard_errors(tmp_path, monkeypatch):
  """The errors 20 and 30 have the mean 25 with the standard error 5; a single seed has none."""
  from matplotlib.axes import Axes

  bars = []
  monkeypatch.setattr(Axes, 'errorbar', lambda axes, x, y, xerr, **_: bars.append((x, y, xerr)))
  runs = [run('unchanged', 0, 20.0), run('unchanged', 1, 30.0), run('tanh', 0, 21.0)]
  ablations.draw(runs, tmp_path / 'new' / 'all.png')
  assert bars == [(25.0, 0, pytest.approx(5.0))]
  assert (tmp_path / 'new' / 'all.png').read_bytes().startswith(b'\x89PNG')


def test_changes_are_those_that_the_network_can_have():
  assert ablations.usual('configs/photos.py:original') == list(ablations.CHANGES)
  assert set(ablations.CHANGES) - set(ablations.usual('configs/photos.py:torchvision')) == {
    'no_communication'
  }


def test_a_config_that_cannot_be_read_is_refused():
  with pytest.raises(ablations.runs_lib.Refused, match='did you mean original'):
    ablations.usual('configs/photos.py:orginal')


def test_changes_are_added_to_a_variant(monkeypatch):
  line = '--config=configs/photos.py --workdir=runs --seeds=0 --output=all.json'
  monkeypatch.setattr(sys, 'argv', ['ablations.py', *line.split()])
  with pytest.raises(ablations.runs_lib.Refused, match=r'photos\.py:original'):
    ablations.main()


@pytest.mark.long
def test_ablations_are_trained_evaluated_and_drawn(tmp_path):
  path = tmp_path / 'new' / 'all.json'
  arguments = [
    '--config=configs/lenet.py:mnist',
    '--source=synthetic',
    f'--workdir={tmp_path / "runs"}',
    '--seeds=0',
    f'--output={path}',
    '--changes=relu,max_pool+dropout',
    '--config.data.synthetic.train=40',
    '--config.data.synthetic.validation=10',
    '--config.train.batch_size=8',
    '--config.train.steps=2',
  ]
  line = [sys.executable, 'experiments/ablations.py', *arguments]
  done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  made = json.loads(path.read_text())
  assert set(made['top1_error']) == {'unchanged', 'relu', 'max_pool+dropout'}
  assert '--config=configs/lenet.py:mnist+max_pool+dropout' in made['runs'][2]['command']
  assert path.with_suffix('.png').read_bytes().startswith(b'\x89PNG')
