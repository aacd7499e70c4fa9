"""The code that the programs in experiments/ share: runs are started, stopped, resumed and recorded."""

import argparse
import json
import os
import re
import signal
import sys

import pytest
from tiny import ROOT, until

import runs as runs_lib
import seeds


def make(cells, after=lambda cell: (), jobs=1):
  """Runs the cells, and returns the exit code and the content of the result file."""
  options = argparse.Namespace(output='out/all.json', jobs=jobs)
  code = seeds.make(cells, options, lambda runs: {'number': len(runs)}, after)
  path = runs_lib.ROOT / 'out' / 'all.json'
  return code, json.loads(path.read_text()) if path.exists() else None


def cell(*more):
  """Returns the arguments of a training run and of its evaluation."""
  return [['--workdir=w/seed0', *more], ['--mode=eval', '--workdir=w/seed0']]


def test_a_run_that_is_killed_while_stopping_counts_as_stopped(checkout):
  """While the interpreter exits, main.py's handler is gone and SIGTERM kills the process."""
  (checkout / 'main.py').write_text(
    'import pathlib, time\npathlib.Path("up").touch()\ntime.sleep(60)\n'
  )
  runner = runs_lib.Runner(1)
  runner.start('run', ['--workdir=x'])
  until((checkout / 'up').exists)
  assert runner.free == 0
  runner.stop()
  ((key, ended),) = runner.wait()
  assert (key, ended.code, ended.answers) == ('run', 75, [])
  assert runner.free == 0  # no other run is started


def test_a_run_that_another_signal_kills_has_failed(checkout):
  """The exit code is 128 plus the number of the signal, as in a shell."""
  (checkout / 'main.py').write_text('import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n')
  code, made = make({(None, 0): cell()})
  assert code == 137 and made['runs'][0]['eval'] is None


def test_a_signal_during_a_successful_run_stops_the_remaining_runs(checkout):
  """The exit code is 75, and the same command starts the remaining runs."""
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
def test_a_run_starts_after_the_runs_that_it_needs(checkout, jobs):
  """An average is evaluated when both of its runs are complete. A chain has two training calls."""
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


def test_a_failed_run_is_repeated_and_a_result_is_kept(checkout):
  """A failed run can be repeated with other flags. After a success, other flags are listed in an error."""
  failed, made = make({(None, 0): cell('--fail=2')})
  assert failed == 2 and made['runs'][0]['train'] is None
  code, made = make({(None, 0): cell('--config.rate=1')})
  assert code == 0 and made['runs'][0]['eval']['step'] == 1
  with pytest.raises(runs_lib.Refused, match=r'there: --config.rate=1; now: --config.rate=2\)'):
    make({(None, 0): cell('--config.rate=2')})


def test_a_chain_with_swapped_sources_is_refused(checkout):
  """The calls are compared one by one. The order of the flags within a call does not matter."""

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


def test_an_average_of_more_runs_is_computed_again(checkout):
  """Averages are cheap, so a recorded average of two networks does not prevent an average of three."""

  def average(n):
    return [['--mode=eval', f'--checkpoints={",".join("abc"[:n])}']]

  nets = {('net', n): [[f'--workdir={n}'], ['--mode=eval', f'--workdir={n}']] for n in range(3)}
  assert make({('net', 0): nets['net', 0], ('2 nets', None): average(2)})[0] == 0
  code, made = make(nets | {('3 nets', None): average(3)})
  assert code == 0 and [run['variant'] for run in made['runs']] == ['net', 'net', 'net', '3 nets']


def test_a_resumed_run_adds_up_its_time_and_commits():
  on = {'date': 'today', 'commits': ['b']}
  first = runs_lib.gone_on({}, 2.0, {'date': 'yesterday', 'commits': ['a']})
  assert runs_lib.gone_on(first, 3.4, on) == {'seconds': 5, 'date': 'today', 'commits': ['a', 'b']}
  assert runs_lib.gone_on({'seconds': 1}, 1.0, on)['commits'] == ['b']


@pytest.mark.parametrize(
  ('program', 'override'),
  [('seeds', '--config.seed=7'), ('fig1', '--config.optim.rate=0.1')],
)
def test_keys_that_a_program_varies_cannot_be_overridden(program, override, monkeypatch):
  arguments = ['--workdir=w', '--output=o.json', override]
  own = (
    ['--source=folder:x'] if program == 'fig1' else ['--config=configs/photos.py', '--seeds=0,1']
  )
  monkeypatch.setattr(sys, 'argv', [program, *own, *arguments])
  with pytest.raises(runs_lib.Refused, match=f'{override}: the program sets this key itself'):
    __import__(program).main()


@pytest.mark.parametrize('text', ['{"runs": [', '[]', '{}'])
def test_an_output_file_with_other_content_is_kept(checkout, text):
  """A damaged file or one of another format is refused and not changed."""
  (checkout / 'out').mkdir()
  (checkout / 'out' / 'all.json').write_text(text)
  with pytest.raises(runs_lib.Refused, match='is not a file of results'):
    make({(None, 0): cell()})
  assert (checkout / 'out' / 'all.json').read_text() == text


def test_the_results_of_another_program_are_kept(checkout):
  """The results of Figure 1 are refused by a program that trains one config with several seeds."""
  content = (ROOT / 'results' / 'fig1.json').read_text()
  (checkout / 'out').mkdir()
  (checkout / 'out' / 'all.json').write_text(content)
  with pytest.raises(runs_lib.Refused, match='belongs to another program'):
    make({(None, 0): cell()})
  assert (checkout / 'out' / 'all.json').read_text() == content


@pytest.mark.parametrize(
  ('program', 'argument'),
  [('seeds', '--jobs=0'), ('seeds', '--seeds=0,a'), ('table2', '--nets=-1')],
)
def test_invalid_numbers_are_named(program, argument, monkeypatch, capsys):
  """A value that is no number or too small is in the error."""
  monkeypatch.setattr(sys, 'argv', [program, argument])
  with pytest.raises(SystemExit, match='2'):
    __import__(program).main()
  assert repr(argument.partition('=')[2]) in capsys.readouterr().err


def documented_commands():
  """Yields (file, program, arguments) for each documented command that calls a program of experiments/."""
  for path in [*ROOT.glob('*.md'), *ROOT.glob('configs/*'), *ROOT.glob('experiments/*.py')]:
    if path.is_file():
      text = re.sub(r'\\+\n\s*', ' ', path.read_text())
      for found in re.finditer(r'python experiments/(\w+)\.py([^`\n]*)', text):
        if '--help' not in found[2] and not found[2].endswith('...'):
          yield path.name, *found.groups()


@pytest.mark.parametrize(('where', 'program', 'rest'), list(documented_commands()))
def test_documented_commands_have_all_required_flags(where, program, rest):
  source = (ROOT / 'experiments' / f'{program}.py').read_text()
  names = re.findall(r"'(\w+)'", re.search(r'runs_lib\.parser\(([^)]*)\)', source)[1])
  assert [name for name in names if f'--{name}=' not in rest] == [], where
