"""`alexnet_jax.load` returns a classifier whose results equal those of the command line exactly."""

import json
import shutil

import helpers
from helpers import run
import numpy as np
from PIL import Image, ImageSequence
import pytest
from tiny import tiny_config

import alexnet_jax
from alexnet_jax.cli import main as main_lib
from alexnet_jax.config import recipes
from alexnet_jax.errors import UserError
from alexnet_jax.inference.classifier import layer_keys

NAMES = ('a.jpg', 'b.png', 'deep/c.jpeg')


@pytest.fixture(scope='module')
def archive(workdir, tmp_path_factory):
  """The network of `workdir` as a .safetensors file."""
  path = tmp_path_factory.mktemp('archive') / 'net.safetensors'
  args = ['--mode=export', '--format=safetensors', f'--workdir={workdir}', f'--output={path}']
  assert main_lib.main(args) == 0
  return path


def test_predictions_equal_those_of_the_command_line(workdir, archive, pictures, capsys):
  paths = [pictures / name for name in NAMES]
  images = f'--images={",".join(map(str, paths))}'
  for source, flag in ((workdir, 'workdir'), (archive, 'weights')):
    printed = run(capsys, '--mode=predict', f'--{flag}={source}', images)['images']
    network = alexnet_jax.load(source)
    assert network.predict(paths) == [image['top'] for image in printed]
    one = run(capsys, '--mode=predict', f'--{flag}={source}', f'--images={paths[0]}')
    assert network.predict(str(paths[0])) == one['images'][0]['top']


def test_a_file_holds_the_same_network_as_the_run(workdir, archive, pictures):
  of_run, of_file = alexnet_jax.load(str(workdir)), alexnet_jax.load(archive)
  assert of_run.class_names == of_file.class_names == tuple(f'class{k}' for k in range(7))
  assert of_run.labels == of_run.class_names and of_run.step == of_file.step
  assert alexnet_jax.load(archive, checkpoint=of_run.step).step == of_run.step
  paths = [pictures / name for name in NAMES]
  np.testing.assert_array_equal(of_run.probabilities(paths), of_file.probabilities(paths))


def test_paths_pil_images_and_arrays_give_the_same_results(workdir, pictures):
  network = alexnet_jax.load(workdir, views=1)
  assert network.config.eval.views == 1
  paths = [pictures / name for name in NAMES]
  expected = network.probabilities(paths)
  assert expected.shape == (3, 7) and expected.dtype == np.float32
  np.testing.assert_array_equal(network.probabilities(np.array(paths, str)), expected)
  opened = [Image.open(path) for path in paths]
  np.testing.assert_array_equal(network.probabilities(opened), expected)
  arrays = [np.asarray(image) for image in opened]
  np.testing.assert_array_equal(network.probabilities(iter(arrays)), expected)
  same_size = np.stack([arrays[2], arrays[2][::-1]])
  both = network.probabilities(same_size)
  assert both.shape == (2, 7) and not np.array_equal(both[0], both[1])
  one = network.probabilities(arrays[0])
  assert one.shape == (7,)
  np.testing.assert_allclose(one, expected[0], rtol=1e-4)
  gray = network.probabilities(arrays[0][..., 0])
  np.testing.assert_array_equal(
    gray, network.probabilities(np.repeat(arrays[0][..., :1], 3, axis=2))
  )


def test_an_iterator_may_give_one_object_many_times(workdir, tmp_path):
  """The frames of an animation share one PIL image."""
  network = alexnet_jax.load(workdir, views=1)
  arrays = list(np.random.default_rng(2).integers(0, 256, (3, 80, 90, 3), np.uint8))
  first, *others = map(Image.fromarray, arrays)
  first.save(tmp_path / 'x.gif', save_all=True, append_images=others)

  def filled():
    buffer = np.empty_like(arrays[0])
    for array in arrays:
      buffer[:] = array
      yield buffer

  expected = network.probabilities(arrays)
  assert len({row.tobytes() for row in expected}) == 3
  np.testing.assert_array_equal(network.probabilities(filled()), expected)
  with Image.open(tmp_path / 'x.gif') as animation:
    expected = [network.probabilities(f.copy()) for f in ImageSequence.Iterator(animation)]
    found = network.probabilities(ImageSequence.Iterator(animation))
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_pil_image_is_turned_upright(tmp_path):
  """PIL images are treated as files are (config.data.canvas.exif_orientation)."""
  helpers.untrained_run(tiny_config(data__canvas__exif_orientation=True), tmp_path)
  network = alexnet_jax.load(tmp_path, views=1)
  pixels = np.random.default_rng(1).integers(0, 256, (90, 120, 3), np.uint8)
  turned = Image.fromarray(np.rot90(pixels))
  turned.getexif()[0x0112] = 6
  results = network.probabilities([turned, Image.fromarray(pixels)])
  np.testing.assert_allclose(results[0], results[1], rtol=1e-5)


@pytest.mark.long
def test_features_equal_those_of_the_command_line(workdir, pictures, tmp_path, capsys):
  network = alexnet_jax.load(workdir)
  paths = [pictures / name for name in NAMES]
  for layer in ('fc6', 'fc7'):
    out = tmp_path / f'{layer}.npz'
    images = f'--images={",".join(map(str, paths))}'
    args = ('--mode=features', f'--workdir={workdir}', f'--layer={layer}', f'--output={out}')
    run(capsys, *args, images)
    with np.load(out) as file:
      np.testing.assert_array_equal(network.features(paths, layer), file['features'])
  assert network.features(paths[0]).shape == (256,)


def test_images_that_cannot_be_read_are_refused(workdir, pictures):
  network = alexnet_jax.load(workdir, views=1)
  with pytest.raises(UserError, match=r'broken\.jpg cannot be read .*: leave it out'):
    network.predict([pictures / 'a.jpg', pictures / 'broken.jpg'])
  with pytest.raises(UserError, match=r'none\.jpg cannot be read'):
    network.predict('none.jpg')
  with pytest.raises(UserError, match=r'image 1 cannot be read .*float64'):
    network.predict([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3))])
  with pytest.raises(UserError, match=r'image 1 cannot be read .*float64'):
    network.predict(np.zeros((8, 8, 3), kind) for kind in (np.uint8, np.float64))
  with pytest.raises(UserError, match='there are no images'):
    network.probabilities([])
  with pytest.raises(UserError, match='int is not an image'):
    network.predict(3)
  with pytest.raises(UserError, match='choose one of conv1, '):
    network.features(pictures / 'a.jpg', 'fc9')


@pytest.mark.long
def test_a_run_of_a_larger_machine_is_loaded(tmp_path, workdir, pictures):
  shutil.copytree(workdir, tmp_path / 'run')
  path = tmp_path / 'run' / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | {'mesh': [64, 1]}))
  found = alexnet_jax.load(tmp_path / 'run').probabilities(pictures / 'a.jpg')
  expected = alexnet_jax.load(workdir).probabilities(pictures / 'a.jpg')
  np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_network_that_does_not_exist_is_refused(tmp_path, workdir):
  with pytest.raises(UserError, match=r'holds no config\.json'):
    alexnet_jax.load(tmp_path)
  with pytest.raises(UserError, match='there is no such file'):
    alexnet_jax.load(tmp_path / 'none.safetensors')
  with pytest.raises(UserError, match=r'config\.eval\.views=3: must be one of'):
    alexnet_jax.load(workdir, views=3)
  with pytest.raises(AttributeError, match='has no attribute'):
    alexnet_jax.lead  # noqa: B018


def test_layer_names_of_a_network_with_conv6():
  """conv6 and fc6 have the same number; their activations have different keys."""
  keys = layer_keys(recipes.get('paper+conv6').model)
  assert keys['conv6'] == keys['act6'] == 'conv6/act'
  assert keys['fc6'] == keys['fc6/act'] == 'fc6/act'
  assert keys['pool5'] == 'conv5/pool' and keys['norm1'] == 'conv1/norm'
  assert keys['dropout7'] == 'fc7/dropout' and keys['fc8'] == 'fc8'
