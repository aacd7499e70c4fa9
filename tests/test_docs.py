"""The commands in the documentation can be parsed, and the keys, files and messages that it names exist.

The pages are README.md, RESULTS.md, CONTRIBUTING.md and docs/. Each command is parsed by the parser of its
program. tests/test_doc_examples.py runs the examples.
"""

import argparse
import ast
import json
import os
import pathlib
import re
import runpy
import sys
import tomllib

from doc_commands import PROGRAMS, arguments, is_main, reason_not_run
import doc_examples
from doc_examples import PAGES, ROOT, Example
import pytest

from alexnet_jax import config as config_lib
from alexnet_jax.cli import flags
from alexnet_jax.cli import main as cli
from alexnet_jax.config import recipes
from alexnet_jax.workdir import archive


class CommandParsed(Exception):
  """Ends a program once its command line has been parsed."""


def parse_with_argparse(words: tuple[str, ...], monkeypatch) -> None:
  """Starts a program of this repository and stops it when argparse has parsed its whole command line."""
  parse_known_args = argparse.ArgumentParser.parse_known_args

  def parse_and_stop(self, args=None, namespace=None):
    _, rest = parse_known_args(self, args, namespace)
    unknown = [word for word in rest if not word.startswith('--config.')]
    assert not unknown, f'unknown arguments {unknown}'
    for word in rest:
      key = word.partition('=')[0].removeprefix('--config.')
      assert key in config_lib.flatten(recipes.get('paper')), word
    raise CommandParsed

  monkeypatch.setattr(argparse.ArgumentParser, 'parse_known_args', parse_and_stop)
  module = words[1] == '-m'
  program, rest = (words[2], words[3:]) if module else (words[1], words[2:])
  monkeypatch.setattr(sys, 'argv', [program, *rest])
  with pytest.raises(CommandParsed):
    if module:
      runpy.run_module(program, run_name='__main__', alter_sys=False)
    else:
      runpy.run_path(str(ROOT / program), run_name='__main__')


def parse_main(argv: list[str]) -> None:
  """Parses a command line of main.py with its own parser, and validates the config of a training run.

  The workdirs and weight files that the command reads are first written to the current folder.
  """
  if '--help' in argv or '--helpfull' in argv:
    try:
      code = cli.main(argv)
    except SystemExit as ended:
      code = ended.code
    assert code == 0
    return
  given = dict(word.partition('=')[::2] for word in argv)
  mode = given.get('--mode', 'train')
  if mode not in ('train', 'prepare', 'import'):
    for name in [given.get('--workdir'), *given.get('--checkpoints', '').split(',')]:
      if name:
        os.makedirs(name, exist_ok=True)
        pathlib.Path(name, config_lib.FILE).write_text(config_lib.to_json(recipes.get('original')))
  weights = given.get('--weights', '')
  if mode != 'import' and weights.endswith('.safetensors'):
    metadata = {'format': archive.FORMAT, 'version': archive.VERSION}
    metadata['config'] = config_lib.to_json(recipes.get('original'))
    archive.write_tensors(weights, {}, metadata)
  pathlib.Path('alexnet-owt-7be5be79.pth').touch()
  pathlib.Path('bvlc_alexnet.caffemodel').write_bytes(b'')
  if mode == 'import' and '--format=caffe' in argv:
    # A real file would decide between two recipes.
    argv = [*argv, '--config=configs/alexnet.py:caffe']
  options = flags.parse(argv)
  if mode == 'train':
    config_lib.validate(options.config)


def parse_pip(words: tuple[str, ...]) -> None:
  """Checks that the files and extras that `pip install` names exist."""
  extras = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['optional-dependencies']
  for i, word in enumerate(words):
    if words[i - 1] == '-r':
      assert (ROOT / word).is_file(), word
    if word.startswith('.['):
      assert set(word[2:-1].split(',')) <= set(extras), word


def parse_script(words: tuple[str, ...]) -> None:
  """Checks that the script exists, and parses the arguments that it passes to main.py."""
  index, script = next((i, word) for i, word in enumerate(words) if word.startswith('launch/'))
  assert (ROOT / script).is_file(), script
  argv = [word for word in words[index + 1 :] if word.startswith('--')]
  if script != 'launch/test.sh' and argv:
    parse_main(argv)


def parse(example: Example, monkeypatch) -> None:
  """Parses a command with the parser of its program."""
  words = example.words
  if is_main(words):
    parse_main(arguments(words))
  elif any(word.startswith('launch/') for word in words):
    parse_script(words)
  elif words[0] == 'pip':
    parse_pip(words)
  elif words[0] == 'python' and words[:3] not in [
    ('python', '-m', 'venv'),
    ('python', '-m', 'pytest'),
  ]:
    if words[:3] == ('python', '-m', 'alexnet_jax.cli.help'):
      return
    parse_with_argparse(words, monkeypatch)
  elif words[:3] == ('python', '-m', 'pytest'):
    assert all((ROOT / word).exists() for word in words if word.startswith('tests/')), words
  else:
    reason_not_run(example)


@pytest.mark.parametrize('page', PAGES)
def test_every_command_is_parsed(page, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for example in doc_examples.examples(page, PROGRAMS):
    if example.kind == 'python':
      compile(example.text, f'{page}:{example.line}', 'exec')
      continue
    reason_not_run(example)
    try:
      with monkeypatch.context() as patches:
        parse(example, patches)
    except (Exception, SystemExit) as error:
      pytest.fail(f'{page}, line {example.line}: {" ".join(example.words)}\n{error!r}')


def _keys_and_groups() -> set[str]:
  """Returns the names of all config keys and of all groups of keys."""
  keys = set(config_lib.flatten(recipes.get('paper')))
  return keys | {key.rpartition('.')[0] for key in keys} | {key.partition('.')[0] for key in keys}


@pytest.mark.parametrize('page', PAGES)
def test_named_keys_modes_and_files_exist(page):
  known = _keys_and_groups()
  groups = {key.partition('.')[0] for key in known if '.' in key}
  files = ('.json', '.jsonl', '.npz', '.md', '.py')
  folders = ('alexnet_jax', 'configs', 'launch', 'tests', 'experiments', 'benchmarks', 'results')
  for line, span in doc_examples.spans(page):
    location = f'{page}, line {line}: {span}'
    flag, _, value = span.split()[0].partition('=')
    if flag == '--mode' and value:
      assert value in flags.MODES, location
    if (key := re.fullmatch(r'(--)?config\.([a-z_0-9.]+)', flag)) and not flag.endswith(files):
      assert key[2] in known, location
    elif flag.partition('.')[0] in groups and not flag.endswith(files):
      assert not re.fullmatch(r'[a-z_0-9]+(\.[a-z_0-9]+)+', flag) or flag in known, location
    if re.fullmatch(rf'({"|".join(folders)})/[a-z0-9_./-]+', span):
      assert (ROOT / span).exists(), location


def test_quoted_messages_occur_in_the_package():
  """The text that docs/messages.md quotes, apart from its placeholders, is in a string of the package."""
  literals = []
  for path in (ROOT / 'alexnet_jax').rglob('*.py'):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.JoinedStr):
        parts = node.values
        literals.append(''.join(p.value if isinstance(p, ast.Constant) else '\0' for p in parts))
      elif isinstance(node, ast.Constant):
        value = node.value
        literals.append(value.decode(errors='replace') if isinstance(value, bytes) else str(value))
  text = '\n'.join(literals)
  quoted = re.findall(r'^\| (?:\d+|-) \| (.+?) \|', (ROOT / 'docs/messages.md').read_text(), re.M)
  assert len(quoted) > 15
  for message in re.findall(r'`([^`]+)`', ' '.join(quoted)):
    for part in re.split(r'\s*\.\.\.\s*|--workdir=', message):
      assert part in text, f'{part!r} of {message!r} does not occur in the package'


def test_readme_agrees_with_the_result_files():
  """README, and RESULTS for CIFAR-10, contain the numbers of the files in results/ and weights/."""
  readme = (ROOT / 'README.md').read_text()

  def load(name, folder='results'):
    return json.loads((ROOT / folder / name).read_text())

  figure = load('fig1.json')
  again = figure['tanh']['epochs_to_25_percent'] / load('fig1_relu_again.json')['mean']
  assert (
    f'| {figure["ratio"]:.1f} times (3 seeds each); {again:.1f} when the runs with ReLU' in readme
  )
  for name, digits in (('elpv_defect.json', 1), ('lenet_mnist.json', 2)):
    assert f'| {load(name)["top1_error"]["mean"]:.{digits}f} (3 seeds)' in readme
  without, normalised = (
    load(f'conv_local_{name}pct.evaluation.json', 'weights')['top1_error'] for name in (13, 11)
  )
  assert f'| {without:.2f}; {normalised:.2f} (1 seed each)' in readme
  results = (ROOT / 'RESULTS.md').read_text()
  assert f'| {without:.2f}; with normalisation {normalised:.2f} |' in results
  assert f'2026-11-29 and 30 | {without:.2f}; {normalised:.2f} |' in results
  parts = load('conv_local_two_parts.json')
  tested = parts['test images after the second part']['9 views']
  assert f'| {tested:.2f} | paper: 13 | 0 | {sum(parts["seconds"]):.0f} |' in results
  runs = load('cifar10_compression.json')
  before, after = (
    runs[name]['top1_error']['mean'] for name in ('as they are', 'compressed once more, quality 50')
  )
  assert f'| {before:.1f}; {after:.1f} |' in results
  quickstart = load('quickstart.json')['top1_error']
  assert f'| {quickstart["min"]:.1f} to {quickstart["max"]:.1f} with ten views' in readme
  speed = [load(f'speed/{name}.json')['spread'] for name in ('train_step', 'inference')]
  for side, name in (('ours', 'alexnet_jax'), ('as it comes', 'as installed'), ('fair', 'setting')):
    training, inference = (spread[side]['median'] for spread in speed)
    assert re.search(rf'^\|.*{name}.* \| {training:.1f} \| {inference:.0f} \|$', readme, re.M), side
  ablations = load('cats_dogs_ablations.json')['top1_error']
  ridge = load('cats_dogs.json')['baselines']['ridge on pixel means']
  cats = f'| {ablations["unchanged"]["mean"]:.1f} (3 seeds); ridge regression: {ridge:.1f} |'
  assert cats in readme
  narrow = load('speed/train_step_narrow.json')['ratio']
  assert f'{narrow["fair"]:.2f} times at an eighth' in readme
  assert f'({narrow["as it comes"]:.2f} times that of PyTorch as installed)' in readme
