"""What the programs that make many runs share: how runs are stopped, gone on with, and written down."""

import argparse
import json
import os
import re
import signal
import sys
import time

import pytest
from tiny import ROOT

import runs as runs_lib
import seeds


def make(cells, after=lambda cell: (), jobs=1):
  """Makes cells; returns the exit code and what the output then says."""
  options = argparse.Namespace(output='out/all.json', jobs=jobs)
  code = seeds.make(cells, options, lambda runs: {'number': len(runs)}, after)
  path = runs_lib.ROOT / 'out' / 'all.json'
  return code, json.loads(path.read_text()) if path.exists() else None


def cell(*more):
  """Calls to train and to evaluate."""
  return [['--workdir=w/seed0', *more], ['--mode=eval', '--workdir=w/seed0']]


def test_a_run_killed_as_it_ends_counts_as_stopped(place):
  """Python's own end of a process no longer heeds main.py's handler: the signal kills, and is no failure."""
  (place / 'main.py').write_text(
    'import pathlib, time\npathlib.Path("up").touch()\ntime.sleep(60)\n'
  )
  runner = runs_lib.Runner(1)
  runner.start('run', ['--workdir=x'])
  while not (place / 'up').exists():
    time.sleep(0.05)
  assert runner.free == 0
  runner.stop()
  ((key, ended),) = runner.wait()
  assert (key, ended.code, ended.answers) == ('run', 75, [])
  assert runner.free == 0  # no other is started


def test_a_run_that_something_else_kills_has_failed(place):
  """As shells tell it: 128 and the signal."""
  (place / 'main.py').write_text('import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n')
  code, made = make({(None, 0): cell()})
  assert code == 137 and made['runs'][0]['eval'] is None


def test_stopped_while_a_run_ends_well(place):
  """What is left is not made, and the exit code says so; the same command makes it."""
  left, done = [1, 2], []

  def keep(key, ended):
    done.append(key)
    left.remove(key)
    os.kill(os.getpid(), signal.SIGTERM)
    return not ended.code

  def calls(key):
    return [[f'--workdir={key}']]

  assert runs_lib.make_all(lambda: left, calls, keep, jobs=1) == 75 and done == [1]
  assert runs_lib.make_all(lambda: left, calls, keep, jobs=1) == 0 and done == [1, 2]


@pytest.mark.parametrize('jobs', [1, 3])
def test_what_needs_others_comes_after_them(place, jobs):
  """An average is made of two runs, once both are there; a run of three calls is trained by two."""
  cells = {
    ('average', None): [['--mode=eval', '--checkpoints=w/seed0,w/seed1']],
    ('net', 0): cell(),
    ('net', 1): [['--workdir=first'], ['--workdir=second'], ['--mode=eval', '--workdir=second']],
  }

  def after(of):
    return [key for key in cells if key[0] == 'net'] if of[0] == 'average' else []

  code, made = make(cells, after, jobs)
  assert code == 0 and made['number'] == 3
  average, one, chain = made['runs']
  assert average['train'] is None and average['eval']['top1_error'] == 7.0
  assert chain['command'] == 'python main.py --workdir=first && python main.py --workdir=second'
  assert chain['train']['flags'] == {'--workdir': 'second'}
  assert one['evaluated_by'] == 'python main.py --mode=eval --workdir=w/seed0'


def test_a_mistake_is_mended_by_the_right_command(place):
  """A run that came to nothing binds no one; a result does, and says what differs."""
  failed, made = make({(None, 0): cell('--fail=2')})
  assert failed == 2 and made['runs'][0]['train'] is None
  code, made = make({(None, 0): cell('--config.rate=1')})
  assert code == 0 and made['runs'][0]['eval']['step'] == 1
  with pytest.raises(runs_lib.Refused, match=r'there: --config.rate=1; now: --config.rate=2\)'):
    make({(None, 0): cell('--config.rate=2')})


def test_a_chain_whose_sources_are_swapped_is_another(place):
  """Its calls are compared one by one; the order of the flags of one does not matter."""

  def chain(one, two):
    return [
      [f'--source={one}', '--workdir=1'],
      ['--workdir=2', f'--source={two}'],
      ['--mode=eval', '--workdir=2'],
    ]

  assert make({('star', 0): chain('a', 'b')})[0] == 0
  swapped = [call[::-1] for call in chain('a', 'b')]
  assert make({('star', 0): swapped})[0] == 0
  with pytest.raises(runs_lib.Refused, match=r'there: --source=a; now: --source=b\)'):
    make({('star', 0): chain('b', 'a')})


def test_an_average_of_more_is_made_anew(place):
  """Averages cost little: what was averaged of two is no obstacle to three."""

  def average(n):
    return [['--mode=eval', f'--checkpoints={",".join("abc"[:n])}']]

  nets = {('net', n): [[f'--workdir={n}'], ['--mode=eval', f'--workdir={n}']] for n in range(3)}
  assert make({('net', 0): nets['net', 0], ('2 nets', None): average(2)})[0] == 0
  code, made = make(nets | {('3 nets', None): average(3)})
  assert code == 0 and [run['variant'] for run in made['runs']] == ['net', 'net', 'net', '3 nets']


def test_time_and_commits_add_up():
  """Of a run that was stopped and gone on with."""
  on = {'date': 'today', 'commits': ['b']}
  first = runs_lib.gone_on({}, 2.0, {'date': 'yesterday', 'commits': ['a']})
  assert runs_lib.gone_on(first, 3.4, on) == {'seconds': 5, 'date': 'today', 'commits': ['a', 'b']}
  assert runs_lib.gone_on({'seconds': 1}, 1.0, on)['commits'] == ['b']


@pytest.mark.parametrize('text', ['{"runs": [', '[]', '{}'])
def test_a_file_of_something_else_is_kept(place, text):
  """It may be torn, or not ours: refused, and as it was."""
  (place / 'out').mkdir()
  (place / 'out' / 'all.json').write_text(text)
  with pytest.raises(runs_lib.Refused, match='is not a file of results'):
    make({(None, 0): cell()})
  assert (place / 'out' / 'all.json').read_text() == text


def test_the_results_of_another_program_are_kept(place):
  """Those of Figure 1 are no runs of a config with several seeds."""
  theirs = (ROOT / 'results' / 'fig1.json').read_text()
  (place / 'out').mkdir()
  (place / 'out' / 'all.json').write_text(theirs)
  with pytest.raises(runs_lib.Refused, match='belongs to another program'):
    make({(None, 0): cell()})
  assert (place / 'out' / 'all.json').read_text() == theirs


@pytest.mark.parametrize(
  ('program', 'wrong'),
  [('seeds', '--jobs=0'), ('seeds', '--seeds=0,a'), ('table2', '--nets=-1')],
)
def test_numbers(program, wrong, monkeypatch, capsys):
  """What is no number, or too small, is named."""
  monkeypatch.setattr(sys, 'argv', [program, wrong])
  with pytest.raises(SystemExit, match='2'):
    __import__(program).main()
  assert repr(wrong.partition('=')[2]) in capsys.readouterr().err


def documented():
  """Every call of a program of experiments/ that a reader is told to make: where, program, what follows."""
  for path in [*ROOT.glob('*.md'), *ROOT.glob('configs/*'), *ROOT.glob('experiments/*.py')]:
    if path.is_file():
      text = re.sub(r'\\+\n\s*', ' ', path.read_text())
      for found in re.finditer(r'python experiments/(\w+)\.py([^`\n]*)', text):
        if '--help' not in found[2] and not found[2].endswith('...'):
          yield path.name, *found.groups()


@pytest.mark.parametrize(('where', 'program', 'rest'), list(documented()))
def test_documented_commands_are_whole(where, program, rest):
  """No flag is left out that the program cannot do without."""
  source = (ROOT / 'experiments' / f'{program}.py').read_text()
  names = re.findall(r"'(\w+)'", re.search(r'runs_lib\.parser\(([^)]*)\)', source)[1])
  assert [name for name in names if f'--{name}=' not in rest] == [], where
