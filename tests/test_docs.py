"""Every command and every Python example of README.md, RESULTS.md and docs/ works.

Quick: each command is read to its end by the parser of its program, and what is named (config keys, files,
messages) exists. Long: the commands and Python examples of each page run, in order, in one folder, on small
networks and a few images. `ONLY_PARSED` lists what is not run, with the reason.
"""

import argparse
import ast
import json
import os
import pathlib
import re
import runpy
import shutil
import sys
import tomllib

import doc_examples
from doc_examples import PAGES, ROOT, Example
import numpy as np
from PIL import Image
import pytest

from alexnet_jax import config as config_lib
from alexnet_jax.cli import flags
from alexnet_jax.cli import main as cli
from alexnet_jax.config import recipes

# The first words of commands that are not run -> why. Each is still checked by `parse`.
ONLY_PARSED = {
  'bash launch/quickstart.sh': 'it trains for minutes; quickstart.md runs the same commands',
  'bash launch/test.sh': 'it would start this test again',
  'bash launch/docs.sh': 'it is run by continuous integration',
  'bash launch/lint.sh': 'it is run by continuous integration',
  'bash launch/local.sh': 'tests/launch runs the script; its arguments are parsed here',
  'bash launch/tpu_vm.sh': 'it needs a Cloud TPU',
  'sbatch': 'it needs a SLURM cluster',
  'kubectl': 'it needs a Kubernetes cluster',
  'pip': 'it needs a network',
  'python -m venv': 'it makes an environment',
  'python3 -m venv': 'it makes an environment',
  'source': 'it changes the shell',
  'pre-commit': 'it needs a network',
  '.ci/run': 'it is continuous integration',
  '.': 'it changes the shell',
  'ruff': 'it is run by continuous integration',
  'mypy': 'it is run by continuous integration',
  'python -m pytest': 'it would start other tests',
  'python -m benchmarks': 'it takes minutes, and some need PyTorch',
  'python -m tests.faults': 'it takes minutes to hours',
  'python -m alexnet_jax.cli.help': 'tests/cli compares its output with docs/CONFIG.md',
  'python experiments/': 'it takes hours; tests/experiments runs them on small settings',
}
# Arguments of main.py that keep a command from being run -> why.
ARGUMENTS_ONLY_PARSED = {
  '--distributed': 'it waits for another process; tests/distributed starts two',
  '--mode=serve': 'it serves until it is stopped; tests/serve runs it',
  '--help': 'it ends the program; it is run by tests/cli',
  '--helpfull': 'it ends the program; it is run by tests/cli',
}
# The programs that a code span may call.
PROGRAMS = ('python', 'bash', 'alexnet-jax', 'pip', 'sbatch', 'kubectl', 'ruff', 'mypy')
# What makes a run small. Full-size examples differ in nothing else.
SMALL = {
  'model.width': 0.0625,
  'train.steps': 2,
  'train.batch_size': 4,
  'train.evaluate': True,
  'eval.batch_size': 8,
  'log.tensorboard': False,
  'data.synthetic.train': 12,
  'data.synthetic.validation': 6,
  'data.synthetic.classes': 3,
}
SMALL_IMAGES = {'model.input_size': 64, 'data.canvas.size': 72}


def is_main(words: tuple[str, ...]) -> bool:
  """Whether a command is main.py's."""
  return words[:2] == ('python', 'main.py') or words[0] == 'alexnet-jax'


def arguments(words: tuple[str, ...]) -> list[str]:
  """The arguments of main.py in a command of it."""
  return list(words[2:] if words[0] == 'python' else words[1:])


def reason_not_run(example: Example) -> str:
  """Why a command is parsed only; '' if it runs."""
  words = example.words
  if is_main(words):
    reasons = [why for flag, why in ARGUMENTS_ONLY_PARSED.items() if flag in words]
    if example.kind == 'span':
      reasons.append('a code span has placeholders; blocks run')
    return reasons[0] if reasons else ''
  text = ' '.join(words)
  for start, why in ONLY_PARSED.items():
    if (
      text == start or text.startswith(f'{start} ') or (start[-1] == '/' and text.startswith(start))
    ):
      return why
    if text.startswith(f'{start}.'):  # a module of a package
      return why
  pytest.fail(
    f'{example.page}, line {example.line}: {text!r} is neither run nor listed in ONLY_PARSED'
  )


class ParsedToTheEnd(Exception):
  """Ends a program once its command line has been read."""


def parse_with_argparse(words: tuple[str, ...], monkeypatch) -> None:
  """Starts a program of this repository and stops it when argparse has read all of its command."""
  read = argparse.ArgumentParser.parse_known_args

  def read_and_stop(self, args=None, namespace=None):
    _, rest = read(self, args, namespace)
    unknown = [word for word in rest if not word.startswith('--config.')]
    assert not unknown, f'unknown arguments {unknown}'
    for word in rest:
      key = word.partition('=')[0].removeprefix('--config.')
      assert key in config_lib.flatten(recipes.get('paper')), word
    raise ParsedToTheEnd

  monkeypatch.setattr(argparse.ArgumentParser, 'parse_known_args', read_and_stop)
  module = words[1] == '-m'
  program, rest = (words[2], words[3:]) if module else (words[1], words[2:])
  monkeypatch.setattr(sys, 'argv', [program, *rest])
  with pytest.raises(ParsedToTheEnd):
    if module:
      runpy.run_module(program, run_name='__main__', alter_sys=False)
    else:
      runpy.run_path(str(ROOT / program), run_name='__main__')


def parse_main(argv: list[str]) -> None:
  """Reads a command line of main.py with its own parser, and checks the config of a training run.

  Workdirs that it reads are made in the current folder.
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
  pathlib.Path('alexnet-owt-7be5be79.pth').touch()
  pathlib.Path('bvlc_alexnet.caffemodel').write_bytes(b'')
  if mode == 'import' and '--format=caffe' in argv:
    argv = [*argv, '--config=configs/alexnet.py:caffe']  # else the file decides between two recipes
  options = flags.parse(argv)
  if mode == 'train':
    config_lib.validate(options.config)


def parse_pip(words: tuple[str, ...]) -> None:
  """The files and extras that `pip install` names exist."""
  extras = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['optional-dependencies']
  for i, word in enumerate(words):
    if words[i - 1] == '-r':
      assert (ROOT / word).is_file(), word
    if word.startswith('.['):
      assert set(word[2:-1].split(',')) <= set(extras), word


def parse_script(words: tuple[str, ...]) -> None:
  """The script exists; the arguments of main.py in it are read."""
  at, script = next((i, word) for i, word in enumerate(words) if word.startswith('launch/'))
  assert (ROOT / script).is_file(), script
  argv = [word for word in words[at + 1 :] if word.startswith('--')]
  if script != 'launch/test.sh' and argv:
    parse_main(argv)


def parse(example: Example, monkeypatch) -> None:
  """Reads a command to its end, as its program does."""
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
def test_every_command_is_read_to_its_end(page, tmp_path, monkeypatch):
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
  """Every config key, and every group of keys."""
  keys = set(config_lib.flatten(recipes.get('paper')))
  return keys | {key.rpartition('.')[0] for key in keys} | {key.partition('.')[0] for key in keys}


@pytest.mark.parametrize('page', PAGES)
def test_named_keys_modes_and_files_exist(page):
  known = _keys_and_groups()
  groups = {key.partition('.')[0] for key in known if '.' in key}
  files = ('.json', '.jsonl', '.npz', '.md', '.py')
  folders = ('alexnet_jax', 'configs', 'launch', 'tests', 'experiments', 'benchmarks', 'results')
  for line, span in doc_examples.spans(page):
    place = f'{page}, line {line}: {span}'
    flag, _, value = span.split()[0].partition('=')
    if flag == '--mode' and value:
      assert value in flags.MODES, place
    if (key := re.fullmatch(r'(--)?config\.([a-z_0-9.]+)', flag)) and not flag.endswith(files):
      assert key[2] in known, place
    elif flag.partition('.')[0] in groups and not flag.endswith(files):
      assert not re.fullmatch(r'[a-z_0-9]+(\.[a-z_0-9]+)+', flag) or flag in known, place
    if re.fullmatch(rf'({"|".join(folders)})/[a-z0-9_./-]+', span):
      assert (ROOT / span).exists(), place


def test_messages_are_those_of_the_code():
  """What docs/messages.md quotes, between its placeholders, is said somewhere in the package."""
  said = []
  for path in (ROOT / 'alexnet_jax').rglob('*.py'):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.JoinedStr):
        parts = node.values
        said.append(''.join(p.value if isinstance(p, ast.Constant) else '\0' for p in parts))
      elif isinstance(node, ast.Constant):
        value = node.value
        said.append(value.decode(errors='replace') if isinstance(value, bytes) else str(value))
  text = '\n'.join(said)
  quoted = re.findall(r'^\| (?:\d+|-) \| (.+?) \|', (ROOT / 'docs/messages.md').read_text(), re.M)
  assert len(quoted) > 15
  for message in re.findall(r'`([^`]+)`', ' '.join(quoted)):
    for part in re.split(r'\s*\.\.\.\s*|--workdir=', message):
      assert part in text, f'{part!r} of {message!r} is not said by the package'


def test_the_figures_of_the_readme_are_those_measured():
  """The rows of README that come from results/*.json agree with these files."""
  readme = (ROOT / 'README.md').read_text()

  def load(name):
    return json.loads((ROOT / 'results' / name).read_text())

  figure = load('fig1.json')
  assert f'| {figure["ratio"]:.1f} times (3 seeds each) |' in readme
  for name in ('elpv_defect.json',):
    assert f'| {load(name)["top1_error"]["mean"]:.1f} (3 seeds)' in readme
  assert f'| {load("cats_dogs.json")["top1_error"]["scratch"]["mean"]:.1f} (3 seeds)' in readme


# ------------------------------------------------------------------------------------------------
# The long part: everything runs.


def _photographs(folder: pathlib.Path) -> None:
  """Small JPEG files: `photos`, `imagenet` and `holiday`, with two classes of different colour."""
  rng = np.random.default_rng(0)

  def write(path, shade):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 80, (80, 96, 3)) + np.array(shade)
    Image.fromarray(pixels.astype(np.uint8)).save(path)

  for name, shade in {'cat': (150, 60, 20), 'dog': (20, 60, 150)}.items():
    for i in range(10):
      write(folder / 'photos' / name / f'{i}.jpg', shade)
      write(folder / 'imagenet' / ('val' if i > 7 else 'train') / name / f'{i}.jpg', shade)
    write(folder / 'holiday' / f'{name}.jpg', shade)
    write(folder / 'more' / f'{name}.png', shade)
  write(folder / 'a.jpg', (90, 90, 90))


def _weights(folder: pathlib.Path) -> None:
  """Files of weights, as other frameworks write them, of the small networks with 1000 classes."""
  import caffemodel
  import helpers

  from alexnet_jax import interop
  from alexnet_jax.interop import layout

  def params_of(recipe):
    model = helpers.narrow(recipe, width=SMALL['model.width'], input_size=64, num_classes=1000)
    return helpers.visible_params(model), model

  params, model = params_of('caffe')
  planar = layout.to_planar(params)
  layers = {name: [planar[name]['weight'], planar[name]['bias']] for name in planar}
  (folder / 'bvlc_alexnet.caffemodel').write_bytes(caffemodel.caffemodel(layers))
  mean = np.full((1, 3, 256, 256), 1.0, np.float32) * np.array([104, 117, 123])[:, None, None]
  (folder / 'imagenet_mean.binaryproto').write_bytes(
    caffemodel.blob(mean.astype(np.float32), old=True)
  )
  try:
    import torch
  except ImportError:
    return
  states = {
    'two_towers.pth': interop.to_pytorch(params, model),
    'alexnet-owt-7be5be79.pth': interop.to_torchvision(params_of('torchvision')[0]),
  }
  for name, state in states.items():
    torch.save({key: torch.tensor(np.asarray(x)) for key, x in state.items()}, folder / name)


def _small(argv: list[str]) -> list[str]:
  """A command line of main.py with what makes it small."""
  given = dict(word.partition('=')[::2] for word in argv)
  mode = given.get('--mode', 'train')
  if mode not in ('train', 'prepare', 'import', 'describe'):
    return argv
  if mode == 'describe':
    overrides = {'model.width': SMALL['model.width']}
  elif mode == 'prepare':
    overrides = {'data.canvas.size': SMALL_IMAGES['data.canvas.size']}
  elif mode == 'import':
    overrides = {'model.width': SMALL['model.width'], 'model.input_size': 64}
  else:
    config = flags.parse([*argv, '--dry_run=false', '--sweep=', '--workdir=unused']).config
    overrides = SMALL | (SMALL_IMAGES if config.model.input_size > 64 else {})
    if config.data.source.startswith('tfds:'):
      overrides['data.source'] = 'synthetic'
    if '--config.mesh' not in given:
      overrides['mesh'] = '1,1'
    if '--config.train.profile' in given:
      overrides['train.profile'] = '1,2'
  replaced = {f'--config.{key}' for key in overrides}
  kept = [word for word in argv if word.partition('=')[0] not in replaced]
  return [*kept, *(f'--config.{key}={value}' for key, value in overrides.items())]


@pytest.fixture(scope='session')
def prepared(tmp_path_factory):
  """A folder with photographs, weights and three small trained runs: mine, a and b."""
  folder = tmp_path_factory.mktemp('docs')
  before = pathlib.Path.cwd()
  os.chdir(folder)
  try:
    _photographs(folder)
    _weights(folder)
    train = ['--config=configs/alexnet.py:original', '--config.data.source=folder:photos']
    train += ['--config.model.init=torch', '--config.data.holdout=0.3', '--workdir=runs/mine']
    assert cli.main(_small(train)) == 0
    shutil.copytree('runs/mine', 'runs/a')
    shutil.copytree('runs/mine', 'runs/b')
    shutil.copytree('runs/mine', 'runs/ready')
  finally:
    os.chdir(before)
  return folder


def _run(example: Example, made: set[str], capsys) -> None:
  """Runs a command of main.py in this process; it must end well, and with one line of JSON."""
  argv = arguments(example.words)
  given = dict(word.partition('=')[::2] for word in argv)
  workdir = given.get('--workdir', '')
  if given.get('--mode', 'train') in ('train', 'import') and workdir not in made:
    if given.get('--config.init_from') != workdir:
      shutil.rmtree(workdir, ignore_errors=True)
    made.add(workdir)
  capsys.readouterr()
  code = cli.main(_small(argv))
  out, err = capsys.readouterr()
  assert code == 0, err[-2000:]
  json.loads(out.strip() if given.get('--mode') == 'config' else out.strip().splitlines()[-1])


def _needs_torch(example: Example) -> bool:
  return any(word.endswith('.pth') for word in example.words)


@pytest.mark.long
@pytest.mark.parametrize('page', PAGES)
def test_every_example_runs(page, prepared, tmp_path, monkeypatch, capsys):
  """In the order of the page, in a folder with photographs and runs."""
  folder = tmp_path / 'stage'
  shutil.copytree(prepared, folder)
  monkeypatch.chdir(folder)
  has_torch = (folder / 'two_towers.pth').exists()
  variables: dict[str, object] = {'__name__': '__main__'}
  made: set[str] = set()
  for example in doc_examples.examples(page, PROGRAMS):
    if example.kind != 'python' and (reason_not_run(example) or not is_main(example.words)):
      continue
    if _needs_torch(example) and not has_torch:
      continue  # parsed by the quick test; PyTorch is an extra
    try:
      if example.kind == 'python':
        exec(compile(example.text, f'{page}:{example.line}', 'exec'), variables)
      else:
        _run(example, made, capsys)
    except BaseException as error:
      raise AssertionError(f'{page}, line {example.line}: {example.text}') from error
