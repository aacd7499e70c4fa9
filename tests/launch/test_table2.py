"""Table 2 by one command: which networks, in which order, and the table they make."""

import argparse
import json
import subprocess
import sys

import pytest
from tiny import ROOT

sys.path.insert(0, str(ROOT / 'launch'))
import table2


def options(**changes):
  """Of the whole table, but for `changes`."""
  known = {'source': 'store:2012', 'fall_2009': 'store:2009', 'fall_2011': 'store:2011'}
  return argparse.Namespace(**known | {'workdir': 'T', 'nets': 5, 'chains': 2} | changes)


def test_the_networks_of_each_row():
  """Five of one kind, two of another, and averages of five and of seven; each chain from the first net."""
  cells = table2.calls(options(), ['--config.x=1'])
  assert [len(members) for members in table2.rows(options()).values()] == [1, 5, 1, 7]
  assert len(cells) == 9
  *trained, evaluated = cells['CNN*', 1]
  assert [set(call) >= {'--config.seed=1', '--config.x=1'} for call in trained] == [True] * 3
  starts = [word for call in trained for word in call if 'init_from' in word]
  assert [start.partition('=')[2] for start in starts] == [
    'T/cnn/seed0',
    'T/cnn_star_2009/seed1',
    'T/cnn_star_2011/seed1',
  ]
  sources = [word for call in trained for word in call if 'source' in word]
  assert [word.partition('=')[2] for word in sources] == ['store:2009', 'store:2011', 'store:2012']
  assert evaluated[1] == '--workdir=T/cnn_star_2012/seed1' == trained[-1][-1]
  (average,) = cells['7 CNNs*', None]
  assert len(average[-1].partition('=')[2].split(',')) == 7


def test_the_rows_of_the_paper():
  """Its errors stand beside as many networks as it averaged, and no others."""
  table = table2.summarise([], options())['table']
  assert [row['paper']['top1_error'] for row in table.values()] == [40.7, 38.1, 39.0, 36.7]
  assert {row['ours'] for row in table.values()} == {None}
  fewer = table2.summarise([], options(nets=3, chains=1))['table']
  assert [bool(row['paper']) for row in fewer.values()] == [True, False, True, False]
  assert list(fewer) == ['1 CNN', '3 CNNs', '1 CNN*', '4 CNNs*']


def test_what_comes_first():
  """A chain takes layers of the first network; an average is made of its members."""
  assert table2.needed(options(), ('CNN', 3)) == []
  assert table2.needed(options(), ('CNN*', 1)) == [('CNN', 0)]
  assert len(table2.needed(options(), ('7 CNNs*', None))) == 7


def test_without_the_releases():
  """The rows of networks that saw no other images."""
  alone = options(fall_2009='', fall_2011='')
  assert list(table2.rows(alone)) == ['1 CNN', '5 CNNs']
  assert {name for name, _ in table2.calls(alone, [])} == {'CNN', '5 CNNs'}


def make(folder, *more):
  """Runs launch/table2.py on nets so small that they learn nothing, two steps each."""
  arguments = [
    *(f'--{name}=synthetic' for name in ('source', 'fall_2009', 'fall_2011')),
    f'--workdir={folder}',
    f'--output={folder}/table2.json',
    '--nets=1',
    '--chains=1',
    '--config.model.num_classes=0',
    '--config.data.label_order=',
    '--config.model.width=0.0625',
    '--config.model.input_size=64',
    '--config.data.canvas.size=72',
    '--config.data.synthetic.train=8',
    '--config.data.synthetic.validation=8',
    '--config.train.batch_size=4',
    '--config.train.steps=1',
  ]
  return subprocess.run(
    [sys.executable, 'launch/table2.py', *arguments, *more],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )


def test_the_table_is_made(tmp_path):
  """By real runs, each from the one before; once made nothing is left to do."""
  done = make(tmp_path)
  assert done.returncode == 0, done.stderr
  made = json.loads((tmp_path / 'table2.json').read_text())
  assert list(made['table']) == ['1 CNN', '1 CNN*', '2 CNNs*']
  runs = {(run['variant'], run['seed']): run for run in made['runs']}
  star = runs['CNN*', 0]
  assert star['command'].count(' && ') == 2 and star['train']['step'] == 1
  assert made['table']['1 CNN*']['ours']['top1_error'] == star['eval']['top1_error']
  average = runs['2 CNNs*', None]
  assert average['train'] is None and average['eval']['views'] == 10
  assert made['table']['2 CNNs*'] == {
    'paper': None,
    'ours': {key: average['eval'][key] for key in ('top1_error', 'top5_error')},
  }
  assert made['table']['1 CNN*']['paper'] == {'top1_error': 39.0, 'top5_error': 16.6}
  again = make(tmp_path)
  assert again.returncode == 0 and 'nothing to do' in again.stderr


@pytest.mark.parametrize(
  ('wrong', 'words'),
  [('--fall_2011=', 'both releases'), ('--fall_2009=', 'both releases')],
)
def test_what_cannot_be_made(tmp_path, wrong, words):
  """One line says what to ask for; nothing is written."""
  refused = make(tmp_path, wrong)
  assert refused.returncode == 2 and refused.stderr.count('\n') == 1
  assert words in refused.stderr and not list(tmp_path.iterdir())
