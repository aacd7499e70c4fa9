"""The commands and the Python examples of each page of the documentation run.

They run in the order of the page, in one folder, with small networks and a few images. doc_commands.py lists
the commands that are not run, with the reason.
"""

import json
import os
import pathlib
import shutil

from doc_commands import PROGRAMS, arguments, is_main, reason_not_run
import doc_examples
from doc_examples import PAGES, Example
import numpy as np
from PIL import Image
import pytest
from tiny import CIFAR10

from alexnet_jax.cli import flags
from alexnet_jax.cli import main as cli

# These overrides make a run small. A full-size example differs in nothing else.
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


def _photographs(folder: pathlib.Path) -> None:
  """Writes small images, whose classes differ in colour, to the folders that the pages name."""
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
  for number, name in enumerate(CIFAR10):
    for i in range(5):
      shade = (17 * number, 90, 150 - 15 * number)
      write(folder / 'data' / 'cifar10' / name / f'{i}.jpg', shade)
      part = 'val' if i > 3 else 'train'
      write(folder / 'data' / 'cifar10_official' / part / name / f'{i}.jpg', shade)
  write(folder / 'data' / 'imagenet_sample' / 'n01440764' / 'tench.JPEG', (90, 90, 90))
  write(folder / 'a.jpg', (90, 90, 90))


def _weights(folder: pathlib.Path) -> None:
  """Writes the weights of small networks with 1000 classes in the formats of other frameworks."""
  import caffemodel
  import helpers

  from alexnet_jax import interop
  from alexnet_jax.interop import layout

  def params_of(recipe, input_size):
    model = helpers.narrow(
      recipe, width=SMALL['model.width'], input_size=input_size, num_classes=1000
    )
    return helpers.visible_params(model), model

  params, model = params_of('caffe', SMALL_IMAGES['model.input_size'])
  planar = layout.to_planar(params, model.layers)
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
    'alexnet-owt-7be5be79.pth': interop.to_torchvision(params_of('torchvision', 224)[0]),
  }
  for name, state in states.items():
    torch.save({key: torch.tensor(np.asarray(x)) for key, x in state.items()}, folder / name)


def _small(argv: list[str]) -> list[str]:
  """Returns a command line of main.py with overrides that make the run small."""
  given = dict(word.partition('=')[::2] for word in argv)
  mode = given.get('--mode', 'train')
  if mode not in ('train', 'prepare', 'import', 'describe'):
    return argv
  if mode == 'describe':
    overrides = {'model.width': SMALL['model.width']}
  elif mode == 'prepare':
    overrides = {'data.canvas.size': SMALL_IMAGES['data.canvas.size']}
  elif mode == 'import':
    overrides = {'model.width': SMALL['model.width']}
    if given['--format'] != 'torchvision':  # whose fc6 reads maps of 6x6 pixels
      overrides['model.input_size'] = SMALL_IMAGES['model.input_size']
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
  """A folder with photographs, weights and five equal small runs: mine, alexnet, a, b and ready."""
  folder = tmp_path_factory.mktemp('docs')
  previous = pathlib.Path.cwd()
  os.chdir(folder)
  try:
    _photographs(folder)
    _weights(folder)
    shutil.copytree(doc_examples.ROOT / 'weights', folder / 'weights')
    train = ['--config=configs/alexnet.py:original', '--config.data.source=folder:photos']
    train += ['--config.model.init=torch', '--config.data.holdout=0.3', '--workdir=runs/mine']
    assert cli.main(_small(train)) == 0
    for name in ('alexnet', 'a', 'b', 'ready'):
      shutil.copytree('runs/mine', f'runs/{name}')
  finally:
    os.chdir(previous)
  return folder


def _run(example: Example, written: set[str], capsys) -> None:
  """Runs a command of main.py in this process, and checks its exit code and its JSON output."""
  argv = arguments(example.words)
  given = dict(word.partition('=')[::2] for word in argv)
  workdir = given.get('--workdir', '')
  if given.get('--mode', 'train') in ('train', 'import') and workdir not in written:
    if given.get('--config.init_from') != workdir:
      shutil.rmtree(workdir, ignore_errors=True)
    written.add(workdir)
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
  """The examples run in the order of the page, in a folder that contains photographs and runs."""
  folder = tmp_path / 'stage'
  shutil.copytree(prepared, folder)
  monkeypatch.chdir(folder)
  has_torch = (folder / 'two_towers.pth').exists()
  variables: dict[str, object] = {'__name__': '__main__'}
  written: set[str] = set()
  for example in doc_examples.examples(page, PROGRAMS):
    if example.kind != 'python' and (reason_not_run(example) or not is_main(example.words)):
      continue
    if _needs_torch(example) and not has_torch:
      continue  # PyTorch is an extra; test_docs.py still parses the command
    try:
      if example.kind == 'python':
        exec(compile(example.text, f'{page}:{example.line}', 'exec'), variables)
      else:
        _run(example, written, capsys)
    except BaseException as error:
      raise AssertionError(f'{page}, line {example.line}: {example.text}') from error
