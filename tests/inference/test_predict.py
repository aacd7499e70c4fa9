"""`--mode=predict` and `--mode=features`: what they say is what the live network says."""

import json

import helpers
import jax
import numpy as np
from PIL import Image
from pyarrow import parquet
import pytest
from tiny import main, tiny_config

from alexnet_jax import config as config_lib
from alexnet_jax import models
from alexnet_jax.cli import main as main_lib
from alexnet_jax.config import recipes
from alexnet_jax.data import Canvas, decode_canvas
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import evaluate
from alexnet_jax.inference import features as features_lib
from alexnet_jax.inference import files, predict

SIZES = {'a.jpg': (80, 90), 'b.png': (200, 72), 'deep/c.jpeg': (72, 72)}


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A run of seven classes."""
  folder = tmp_path_factory.mktemp('run')
  helpers.untrained_run(tiny_config(data__synthetic__classes=7), folder)
  return folder


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
  """A folder with three images, a broken one, an empty one and a text."""
  folder = tmp_path_factory.mktemp('pictures')
  (folder / 'deep').mkdir()
  rng = np.random.default_rng(0)
  for name, size in SIZES.items():
    Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / name)
  (folder / 'broken.jpg').write_bytes((folder / 'a.jpg').read_bytes()[:300])
  (folder / 'empty.png').write_bytes(b'')
  (folder / 'notes.txt').write_text('no image')
  return folder


def live(workdir, paths, views):
  """Class names, and probabilities `[N, classes]` by `module.apply`, one view after the other."""
  config = config_lib.load_workdir(workdir)
  config.mesh = (1, 1)
  trained = evaluate.load(workdir, 'best', config)
  module, mean = models.create(trained.config.model), np.asarray(trained.model.mean_image)
  apply = jax.jit(lambda p, x: jax.nn.softmax(module.apply({'params': p}, x, train=False)))
  rows = []
  for path in paths:
    canvas = decode_canvas(path.read_bytes(), Canvas.from_config(trained.config.data.canvas))
    corners = ((0, 0), (0, 8), (4, 4), (8, 0), (8, 8)) if views == 10 else ((4, 4),)
    crops = [canvas[y : y + 64, x : x + 64].astype(np.float32) for y, x in corners]
    crops += [crop[:, ::-1] for crop in crops] if views == 10 else []
    batch = np.stack(crops) - mean[4:68, 4:68]
    rows.append(np.asarray(apply(trained.model.params, batch)).mean(0))
  return trained.meta['class_names'], np.stack(rows)


@pytest.mark.parametrize('views', [1, 10])
def test_predict_says_what_the_network_says(workdir, pictures, capsys, views):
  args = [
    f'--images={pictures / "a.jpg"},{pictures / "deep"},{pictures}/*.png',
    f'--workdir={workdir}',
  ]
  assert main_lib.main(['--mode=predict', *args, f'--config.eval.views={views}']) == 0
  out, err = capsys.readouterr()
  (line,) = out.splitlines()
  result = json.loads(line)
  paths = [pictures / 'a.jpg', pictures / 'deep' / 'c.jpeg', pictures / 'b.png']
  assert [image['path'] for image in result['images']] == [str(path) for path in paths]
  (skipped,) = result['skipped']
  assert skipped['path'] == str(pictures / 'empty.png') and skipped['reason']
  assert f'skipping {pictures / "empty.png"}: ' in err and result['views'] == views
  names, expected = live(workdir, paths, views)
  for image, row in zip(result['images'], expected, strict=True):
    best = np.argsort(-row)[:5]
    assert [guess['label'] for guess in image['top']] == [names[k] for k in best]
    np.testing.assert_allclose([g['probability'] for g in image['top']], row[best], rtol=1e-4)
  first = result['images'][0]['top'][0]
  assert f'{100 * first["probability"]:7.2f} %  {first["label"]}' in err


def test_batches_change_nothing(workdir, pictures):
  config = config_lib.load_workdir(workdir)
  results = []
  for size in (1, 2, 8):
    config.eval.batch_size = size
    results.append(predict.predict(config, workdir, [str(pictures)]))
  assert [len(r['images']) for r in results] == [3, 3, 3]
  assert [len(r['skipped']) for r in results] == [2, 2, 2]
  for result in results[1:]:
    for a, b in zip(result['images'], results[0]['images'], strict=True):
      assert a['path'] == b['path']
      assert [g['label'] for g in a['top']] == [g['label'] for g in b['top']]
      np.testing.assert_allclose(
        [g['probability'] for g in a['top']], [g['probability'] for g in b['top']], rtol=1e-4
      )


def test_predict_in_a_fresh_process_from_another_folder(workdir, pictures):
  result = main('--mode=predict', f'--workdir={workdir}', f'--images={pictures}')
  assert result.returncode == 0, result.stderr
  assert len(json.loads(result.stdout)['images']) == 3


def test_features_of_files(workdir, pictures, tmp_path):
  config = config_lib.load_workdir(workdir)
  config.eval.batch_size = 2
  out = {}
  for layer in ('fc7', 'fc8', 'conv3', 'pool1', 'dropout7'):
    path = tmp_path / f'{layer}.npz'
    result = features_lib.features(config, workdir, layer, str(path), [str(pictures)])
    with np.load(path, allow_pickle=False) as file:
      out[layer] = file['features']
      assert list(file['paths']) == [str(pictures / name) for name in SIZES]
      assert len(file['class_names']) == 7
    assert result['shape'] == list(out[layer].shape) and len(result['skipped']) == 2
    assert out[layer].dtype == np.float32
  # tiny_config's net: 6 + 6 maps where the paper's has 48 + 48, of 64-pixel crops.
  assert out['conv3'].shape == (3, 3, 3, 24) and out['pool1'].shape == (3, 7, 7, 6)
  assert out['fc7'].shape == (3, 256) and out['fc7'].min() >= 0
  np.testing.assert_allclose(out['dropout7'], 0.5 * out['fc7'])  # the paper's x0.5 at test
  _, expected = live(workdir, [pictures / name for name in SIZES], 1)
  np.testing.assert_allclose(jax.nn.softmax(out['fc8']), expected, rtol=1e-4, atol=1e-7)
  config.mesh = (1, 1)
  params = jax.device_get(evaluate.load(workdir, 'best', config).model.params['fc8'])
  logits = 0.5 * out['fc7'] @ params['kernel'].reshape(-1, 7) + params['bias']
  np.testing.assert_allclose(logits, out['fc8'], rtol=1e-4, atol=1e-6)


def test_features_of_a_split(workdir, tmp_path, capsys):
  """The default layer, fc7, of all validation images; labels as the source has them."""
  path = tmp_path / 'out' / 'x.npz'
  args = ['--mode=features', f'--workdir={workdir}', f'--output={path}']
  assert main_lib.main(args) == 0
  assert json.loads(capsys.readouterr().out)['shape'] == [18, 256]
  with np.load(path, allow_pickle=False) as file:
    assert sorted(file['index']) == list(range(18)) and len(file['labels']) == 18
    assert file['features'].shape == (18, 256) and len(np.unique(file['labels'])) > 1
  assert main_lib.main([*args, '--split=train', '--layer=pool5']) == 0
  assert json.loads(capsys.readouterr().out)['shape'][0] == 40


def test_features_to_parquet_are_those_of_npz(workdir, pictures, tmp_path):
  config = config_lib.load_workdir(workdir)
  features_lib.features(config, workdir, 'conv3', str(tmp_path / 'x.npz'), [str(pictures)])
  path = str(tmp_path / 'x.parquet')
  result = features_lib.features(config, workdir, 'conv3', path, [str(pictures)])
  table = parquet.read_table(path)
  assert result['output'] == path and table.column_names == ['features', 'paths']
  shape = json.loads(table.schema.metadata[b'shape'])
  found = np.stack(table['features'].to_numpy()).reshape(-1, *shape)
  with np.load(tmp_path / 'x.npz', allow_pickle=False) as file:
    np.testing.assert_array_equal(found, file['features'])
    assert found.dtype == np.float32 and table['paths'].to_pylist() == list(file['paths'])
    assert json.loads(table.schema.metadata[b'class_names']) == list(file['class_names'])


@pytest.mark.parametrize('suffix', ['.png', '.svg'])
def test_the_picture_shows_images_labels_and_bars(workdir, tmp_path, suffix):
  """The true label is that of the folder; names are text, not markup."""
  (tmp_path / 'class3').mkdir()
  for i in range(5):
    Image.new('RGB', (80, 80), (200, 40 * i, 0)).save(tmp_path / 'class3' / f'{i}.png')
  config = config_lib.load_workdir(workdir)
  path = tmp_path / 'new' / f'shown{suffix}'
  result = predict.predict(config, workdir, [str(tmp_path / 'class3')], picture=str(path))
  assert len(result['images']) == 5 and [p.name for p in path.parent.iterdir()] == [path.name]
  if suffix == '.svg':
    text = path.read_text()
    assert text.count('<image') == 5  # the photographs
    assert text.count('#9db8e8') + text.count('#e8a0a0') == 25 and '#e8a0a0' in text
  else:
    with Image.open(path) as image:
      pixels = np.asarray(image.convert('RGB')).reshape(-1, 3)
    assert {(200, 0, 0), (200, 160, 0)} <= {tuple(map(int, p)) for p in np.unique(pixels, axis=0)}


def test_layer_names_of_a_network_with_conv6():
  """conv6 and fc6 have the same number; their activations have different keys."""
  keys = features_lib.layer_keys(recipes.get('paper+conv6').model)
  assert keys['conv6'] == keys['act6'] == 'conv6/act'
  assert keys['fc6'] == keys['fc6/act'] == 'fc6/act'
  assert keys['pool5'] == 'conv5/pool' and keys['norm1'] == 'conv1/norm'
  assert keys['dropout7'] == 'fc7/dropout' and keys['fc8'] == 'fc8'


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    (['--mode=predict'], '--mode=predict needs --workdir'),
    (['--mode=predict', '--workdir=WORKDIR'], 'needs --images'),
    (
      ['--mode=predict', '--workdir=WORKDIR', '--images=none.jpg'],
      '--images=none.jpg: there is no',
    ),
    (['--mode=predict', '--workdir=WORKDIR', '--images=empty.png'], 'none of the 1 images can be'),
    (['--mode=predict', '--workdir=WORKDIR', '--images=a.jpg', '--checkpoint=7'], 'or a step of 0'),
    (
      ['--mode=predict', '--workdir=WORKDIR', '--images=a.jpg', '--picture=x.gif'],
      'end its name in one of .png',
    ),
    (
      ['--mode=predict', '--workdir=WORKDIR', '--images=a.jpg', '--config.eval.batch_size=0'],
      'config.eval.batch_size=0: must be at least 1',
    ),
    (
      ['--mode=predict', '--workdir=WORKDIR', '--images=a.jpg', '--config.model.width=0.5'],
      'config.model.width=0.5, but the checkpoint was trained with 0.0625',
    ),
    (
      ['--mode=features', '--workdir=WORKDIR', '--images=a.jpg', '--output=x.csv'],
      '--output=x.csv: name a file that ends in .npz or .parquet',
    ),
    (['--mode=features', '--workdir=WORKDIR'], 'needs --output'),
    (
      ['--mode=features', '--workdir=WORKDIR', '--output=x', '--layer=fc9'],
      'choose one of conv1, ',
    ),
    (['--mode=features', '--workdir=WORKDIR', '--output=x', '--split=test'], 'no test images'),
    (['--mode=features', '--workdir=WORKDIR', '--output=x', '--images=empty.png'], 'none of the 1'),
  ],
)
def test_mistakes(workdir, pictures, args, message, capsys, monkeypatch):
  monkeypatch.chdir(pictures)
  before = sorted(pictures.iterdir())
  assert main_lib.main([arg.replace('WORKDIR', str(workdir)) for arg in args]) == 2
  out, err = capsys.readouterr()
  (line,) = [line for line in err.splitlines() if line.startswith('error: ')]
  assert message in line and not out and sorted(pictures.iterdir()) == before


def test_a_glob_with_nothing_and_a_folder_without_images(tmp_path):
  for place, message in (
    (tmp_path, 'a folder without images'),
    (tmp_path / '*.jpg', 'there is no such image'),
    ('', 'names nothing'),
  ):
    with pytest.raises(UserError, match=message):
      files.find_images([str(place)])
