"""`--mode=predict` predicts as the network does; both inference modes refuse invalid arguments."""

import csv
import json
import pathlib
import shutil

import helpers
from inference_helpers import reference_probabilities
import numpy as np
from PIL import Image
import pytest
from tiny import main, tiny_config

from alexnet_jax import config as config_lib
from alexnet_jax.cli import main as main_lib
from alexnet_jax.errors import RunError, UserError
from alexnet_jax.inference import features as features_lib
from alexnet_jax.inference import predict
from alexnet_jax.inference.classifier import Classifier
from alexnet_jax.serve.network import Network


@pytest.mark.parametrize('views', [1, 10])
def test_predictions_are_those_of_the_network(workdir, pictures, capsys, views):
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
  names, expected = reference_probabilities(workdir, paths, views)
  for image, row in zip(result['images'], expected, strict=True):
    best = np.argsort(-row)[:5]
    assert [guess['label'] for guess in image['top']] == [names[k] for k in best]
    np.testing.assert_allclose([g['probability'] for g in image['top']], row[best], rtol=1e-4)
  first = result['images'][0]['top'][0]
  assert f'{100 * first["probability"]:7.2f} %  {first["label"]}' in err


def test_folders_that_are_named_as_classes_give_errors_and_a_csv_file(
  workdir, pictures, tmp_path, capsys
):
  """Errors are measured on the images whose class is known; all images are in the file."""
  for i, name in enumerate(('class3', 'class3', 'class0', 'other')):
    (tmp_path / 'images' / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(pictures / ('a.jpg', 'b.png', 'a.jpg', 'a.jpg')[i], tmp_path / 'images' / name)
  table = tmp_path / 'new' / 'table.csv'
  args = [f'--workdir={workdir}', f'--images={tmp_path / "images"}', f'--output={table}']
  assert main_lib.main(['--mode=predict', *args]) == 0
  result = json.loads(capsys.readouterr().out)
  known = [image for image in result['images'] if 'label' in image]
  assert [image['label'] for image in known] == ['class0', 'class3', 'class3']
  first = [image['top'][0]['label'] != image['label'] for image in known]
  five = [image['label'] not in [g['label'] for g in image['top']] for image in known]
  assert result['labelled'] == 3 and result['output'] == str(table)
  assert result['top1_error'] == pytest.approx(100 * sum(first) / 3)
  assert result['top5_error'] == pytest.approx(100 * sum(five) / 3)
  with table.open() as file:
    rows = list(csv.DictReader(file))
  assert [row['path'] for row in rows] == [image['path'] for image in result['images']]
  assert [row['label'] for row in rows] == ['class0', 'class3', 'class3', '']
  for row, image in zip(rows, result['images'], strict=True):
    assert row['class5'] == image['top'][4]['label']
    assert float(row['probability1']) == image['top'][0]['probability']


def test_probabilities_that_are_not_finite_are_an_error(workdir, pictures, monkeypatch):
  monkeypatch.setattr(Classifier, 'classify', lambda self, canvases: np.full((9, 7), np.nan))
  with pytest.raises(RunError, match='not finite: name an earlier checkpoint'):
    predict.predict(config_lib.load_workdir(workdir), workdir, [str(pictures)])


@pytest.mark.long
def test_the_batch_size_does_not_affect_predictions(workdir, pictures):
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


@pytest.mark.long
def test_predict_runs_in_a_new_process_in_another_folder(workdir, pictures):
  result = main('--mode=predict', f'--workdir={workdir}', f'--images={pictures}')
  assert result.returncode == 0, result.stderr
  assert len(json.loads(result.stdout)['images']) == 3


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
    (
      ['--mode=predict', '--workdir=WORKDIR', '--images=a.jpg', '--checkpoint=7'],
      'choose best, latest or one of',
    ),
    (
      ['--mode=predict', '--workdir=WORKDIR', '--images=a.jpg', '--picture=x.gif'],
      'use a name that ends in .png or',
    ),
    (
      ['--mode=predict', '--workdir=WORKDIR', '--images=a.jpg', '--config.eval.batch_size=0'],
      'config.eval.batch_size=0: must be a whole number from 1',
    ),
    (
      ['--mode=predict', '--workdir=WORKDIR', '--images=a.jpg', '--config.model.width=0.5'],
      'config.model.width=0.5, but the checkpoint was trained with 0.0625',
    ),
    (
      ['--mode=predict', '--workdir=WORKDIR', '--images=a.jpg', '--config.data.canvas.fit=warp'],
      "config.data.canvas.fit='warp', but the checkpoint was trained with 'crop'",
    ),
    (
      ['--mode=predict', '--workdir=WORKDIR', '--images=a.jpg', '--output=x.json'],
      '--output=x.json: use a name that ends in .csv',
    ),
    (
      ['--mode=features', '--workdir=WORKDIR', '--images=a.jpg', '--output=x.csv'],
      '--output=x.csv: use a name that ends in .npz',
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
def test_invalid_arguments_are_refused(workdir, pictures, args, message, capsys, monkeypatch):
  monkeypatch.chdir(pictures)
  before = sorted(pictures.iterdir())
  assert main_lib.main([arg.replace('WORKDIR', str(workdir)) for arg in args]) == 2
  out, err = capsys.readouterr()
  (line,) = [line for line in err.splitlines() if line.startswith('error: ')]
  assert message in line and not out and sorted(pictures.iterdir()) == before


def photographs(folder):
  """Writes an image that its EXIF data turn, and the same upright and as stored; returns their paths."""
  pixels = np.random.default_rng(1).integers(0, 256, (9, 12, 3), np.uint8).repeat(9, 0).repeat(9, 1)
  exif = Image.Exif()
  exif[0x0112] = 6
  Image.fromarray(np.rot90(pixels)).save(folder / 'rotated.png', exif=exif)
  Image.fromarray(pixels).save(folder / 'upright.png')
  Image.fromarray(np.rot90(pixels)).save(folder / 'sideways.png')
  return [str(folder / f'{name}.png') for name in ('rotated', 'upright', 'sideways')]


@pytest.mark.long
def test_a_rotated_photograph_is_turned_upright(tmp_path):
  """Predictions, features and the server use the setting of the run. Without it they ignore EXIF data."""
  names = photographs(tmp_path)
  for turn in (True, False):
    config = tiny_config(data__canvas__exif_orientation=turn)
    run = tmp_path / str(turn)
    helpers.untrained_run(config, run)
    config = config_lib.load_workdir(run)
    shown, upright, sideways = (x['top'] for x in predict.predict(config, run, names)['images'])
    assert upright != sideways and shown == (upright if turn else sideways)
    features_lib.features(config, run, 'fc7', str(run / 'x.npz'), names)
    with np.load(run / 'x.npz') as file:
      np.testing.assert_array_equal(file['features'][0], file['features'][1 if turn else 2])
    network = Network(config, run)
    canvases = [network.decode(pathlib.Path(name).read_bytes()) for name in names]
    np.testing.assert_array_equal(canvases[0], canvases[1 if turn else 2])
    assert network.about()['exif_orientation'] == turn


def test_how_files_are_read_can_be_overridden(workdir, tmp_path, caplog):
  """Before 2026-11-29, the two keys of config.data.canvas that are not part of a network had no effect."""
  names, config = photographs(tmp_path), config_lib.load_workdir(workdir)
  turned, upright, sideways = (x['top'] for x in predict.predict(config, workdir, names)['images'])
  assert turned == sideways != upright and 'images are read with' not in caplog.text
  config.data.canvas.exif_orientation = True
  turned, upright, _ = (x['top'] for x in predict.predict(config, workdir, names)['images'])
  assert turned == upright
  assert 'exif_orientation is True here, and the network was trained with False' in caplog.text
  features_lib.features(config, workdir, 'fc7', str(tmp_path / 'x.npz'), names)
  with np.load(tmp_path / 'x.npz') as file:
    np.testing.assert_array_equal(file['features'][0], file['features'][1])
  config.data.canvas.max_pixels = 108 * 81 - 1
  with pytest.raises(UserError, match=r'none of the 1 images can be read: .*108x81 pixels'):
    predict.predict(config, workdir, names[1:2])
