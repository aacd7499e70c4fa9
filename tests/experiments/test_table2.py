"""One command for Table 2: which networks it trains, in which order, and the table that results."""

import argparse
import json
import subprocess
import sys

import pytest
import table2
from tiny import ROOT


def options(**changes):
  """Returns the options for the whole table, with `changes`."""
  known = {'source': 'store:2012', 'fall_2009': 'store:2009', 'fall_2011': 'store:2011'}
  return argparse.Namespace(**known | {'workdir': 'T', 'nets': 5, 'chains': 2} | changes)


def test_the_networks_of_each_row():
  """The table has 5 CNNs, 2 CNNs* and averages of 5 and 7 networks. Each chain starts from the first CNN."""
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


def test_rows_show_the_numbers_of_the_paper_for_equal_averages():
  """An average of another number of networks has no number of the paper beside it."""
  table = table2.summarise([], options())['table']
  assert [row['paper']['top1_error'] for row in table.values()] == [40.7, 38.1, 39.0, 36.7]
  assert {row['ours'] for row in table.values()} == {None}
  fewer = table2.summarise([], options(nets=3, chains=1))['table']
  assert [bool(row['paper']) for row in fewer.values()] == [True, False, True, False]
  assert list(fewer) == ['1 CNN', '3 CNNs', '1 CNN*', '4 CNNs*']


def test_the_runs_that_a_run_needs():
  """A chain copies layers of the first network, and an average needs its members."""
  assert table2.needed(options(), ('CNN', 3)) == []
  assert table2.needed(options(), ('CNN*', 1)) == [('CNN', 0)]
  assert len(table2.needed(options(), ('7 CNNs*', None))) == 7


def test_the_table_without_the_fall_releases():
  """It has only the rows of networks that were not trained on the fall releases of ImageNet."""
  alone = options(fall_2009='', fall_2011='')
  assert list(table2.rows(alone)) == ['1 CNN', '5 CNNs']
  assert {name for name, _ in table2.calls(alone, [])} == {'CNN', '5 CNNs'}


def make(monkeypatch, *more):
  """Computes the table in this process, and returns the exit code and the content of the result file."""
  release = ['--fall_2009=store:2009', '--fall_2011=store:2011']
  monkeypatch.setattr(
    sys, 'argv', ['table2.py', '--source=a', '--workdir=T', '--output=t.json', *release, *more]
  )
  code = table2.main()
  return code, json.loads((table2.runs_lib.ROOT / 't.json').read_text())


@pytest.mark.parametrize('jobs', [1, 2])
def test_the_table_is_computed_and_extended(checkout, monkeypatch, capsys, jobs):
  """The same command then runs nothing. A command for more networks runs only the new ones."""
  code, made = make(monkeypatch, '--nets=2', '--chains=1', f'--jobs={jobs}')
  assert code == 0 and list(made['table']) == ['1 CNN', '2 CNNs', '1 CNN*', '3 CNNs*']
  runs = {(run['variant'], run['seed']): run for run in made['runs']}
  star, average = runs['CNN*', 0], runs['3 CNNs*', None]
  assert star['train']['flags']['--config'] == 'configs/cnn_star.py:2012'
  assert star['eval']['flags'] == {
    '--mode': 'eval',
    '--workdir': 'T/cnn_star_2012/seed0',
    '--checkpoint': 'latest',
  }
  assert average['train'] is None
  assert average['eval']['flags']['--checkpoints'].split(',')[1:] == [
    'T/cnn/seed1',
    'T/cnn_star_2012/seed0',
  ]
  assert made['table']['1 CNN*'] == {
    'paper': {'top1_error': 39.0, 'top5_error': 16.6},
    'ours': {'top1_error': 7.0, 'top5_error': 2.0},
  }
  assert make(monkeypatch, '--nets=2', '--chains=1')[0] == 0
  capsys.readouterr()
  code, more = make(monkeypatch, '--nets=5')
  assert code == 0 and [
    bool(row['paper'] and row['ours']) for row in more['table'].values()
  ] == 4 * [True]
  assert [run for run in more['runs'] if (run['variant'], run['seed']) == ('CNN*', 0)] == [star]
  assert capsys.readouterr().err.count('python main.py --config=configs/ilsvrc2012.py:cnn') == 3


def test_a_chain_that_fails_in_its_second_call(checkout, monkeypatch):
  """The chain is missing in the table. A corrected command completes it."""
  stand_in = (checkout / 'main.py').read_text()
  fails = 'import sys\nif "--config.data.source=store:2011" in sys.argv:\n  sys.exit(2)\n'
  (checkout / 'main.py').write_text(fails + stand_in)
  code, made = make(monkeypatch, '--nets=1', '--chains=1')
  assert code == 2 and made['table']['1 CNN*']['ours'] is None
  assert made['runs'][-1]['train'] is None
  code, made = make(monkeypatch, '--nets=1', '--chains=1', '--fall_2011=store:there')
  assert code == 0 and made['table']['1 CNN*']['ours']


@pytest.mark.parametrize('missing', ['--fall_2011=', '--fall_2009='])
def test_a_single_fall_release_is_refused(checkout, monkeypatch, missing):
  """The command then writes nothing."""
  with pytest.raises(table2.runs_lib.Refused, match='both releases'):
    make(monkeypatch, missing)
  assert [path.name for path in checkout.iterdir()] == ['main.py']


def test_a_refusal_is_one_line():
  """The line is on stderr, and the exit code is 2."""
  refused = subprocess.run(
    [
      sys.executable,
      'experiments/table2.py',
      '--source=a',
      '--workdir=b',
      '--output=c',
      '--fall_2009=d',
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert refused.returncode == 2 and not refused.stdout
  assert (
    refused.stderr.startswith('error: a CNN* requires both') and refused.stderr.count('\n') == 1
  )
