"""The networks in weights/ load on a fresh clone, are small, and classify what they were trained for."""

import json
import pathlib
import re

import numpy as np
from PIL import Image, ImageDraw
import pytest
from tiny import ROOT

import alexnet_jax
from alexnet_jax.cli import main as cli
from alexnet_jax.evaluation import loading
from alexnet_jax.serve import about
from alexnet_jax.workdir import archive

FOLDER = ROOT / 'weights'
README = FOLDER / 'README.md'
FILES = sorted(FOLDER.glob('*.safetensors'))


# The probabilities of `picture`, in per mille, recorded when each network was exported.
PROBABILITIES = {
  'conv_local_11pct': np.array([543.1, 17.6, 152.0, 121.3, 6.2, 29.6, 1.3, 18.3, 54.8, 55.8])
  / 1000,
  'conv_local_13pct': np.array([130.5, 0.1, 798.4, 0.0, 0.0, 64.0, 0.0, 0.0, 4.5, 2.5]) / 1000,
  'lenet5_mnist': np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.2, 0.0, 998.7, 0.0]) / 1000,
}


def picture(size) -> np.ndarray:
  """Returns a canvas with a red disc before a background that turns from green to blue, uint8 `[S, S, 3]`."""
  row, column = np.indices((size, size)) / size
  image = np.stack([0.2 + 0 * row, row, 1 - row], -1)
  image[(row - 0.4) ** 2 + (column - 0.6) ** 2 < 0.06] = (0.9, 0.1, 0.1)
  return (255 * image).astype(np.uint8)


def digit(*strokes) -> Image.Image:
  """Draws a white digit on black, 28 x 28 pixels; a stroke is a list of points."""
  image = Image.new('RGB', (112, 112))
  draw = ImageDraw.Draw(image)
  for stroke in strokes:
    draw.line([(4 * x, 4 * y) for x, y in stroke], 'white', width=10, joint='curve')
  return image.resize((28, 28), Image.Resampling.BILINEAR)


def test_files_are_small_and_described():
  assert FILES
  assert sum(path.stat().st_size for path in FOLDER.rglob('*')) <= 25e6
  listed = re.findall(r'^\| `([^`]+)`', README.read_text(), re.M)
  assert sorted(listed) == [path.name for path in FILES]
  for path in FILES:
    assert path.stat().st_size <= 10e6
    assert path.with_name(f'{path.name}.README.md').is_file()


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_the_page_of_a_network_shows_the_error_of_its_table(path):
  trained = loading.load_alone(str(path), 'best', archive.read_config(path))
  found = about.validation(trained, str(path))
  (error,) = re.findall(rf'^\| `{path.name}`.*\| ([^|]+) images \|', README.read_text(), re.M)
  assert f'{found["top1_error"]:.2f} % of the {found["images"]:,} test' == error


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_probabilities_are_those_of_the_trained_network(path):
  """Another mean image, order of channels or layout of kernels would change them."""
  network = alexnet_jax.load(path)
  (found,) = network.probabilities([picture(network.config.data.canvas.size)])
  np.testing.assert_allclose(found.sum(), 1, rtol=1e-5)
  np.testing.assert_allclose(found, PROBABILITIES[path.stem], atol=2e-3)


def test_the_examples_of_the_readme_run(tmp_path, monkeypatch, capsys):
  (command,) = re.findall(r'^python main.py (--mode=predict .*)$', README.read_text(), re.M)
  monkeypatch.chdir(tmp_path)
  pathlib.Path('weights').symlink_to(FOLDER)
  pathlib.Path('digits').mkdir()
  digit([(14, 5), (14, 23)]).save('digits/one.png')
  assert cli.main(command.split()) == 0
  (row,) = json.loads(capsys.readouterr().out.strip().splitlines()[-1])['images']
  assert row['top'][0]['label'] == '1'
  (code,) = re.findall(r'^```python\n(.*?)^```$', README.read_text(), re.M | re.S)
  exec(code, {})
  assert capsys.readouterr().out.startswith("('0', '1',")


def test_lenet_reads_drawn_digits():
  network = alexnet_jax.load(FOLDER / 'lenet5_mnist.safetensors')
  circle = [(14 + 5 * np.cos(a), 14 + 8 * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 25)]
  drawn = {
    '0': digit(circle),
    '1': digit([(14, 5), (14, 23)]),
    '4': digit([(9, 5), (8, 14), (19, 14)], [(18, 5), (18, 23)]),
    '7': digit([(8, 6), (19, 6), (12, 23)]),
  }
  found = network.predict(list(drawn.values()))
  assert [top[0]['label'] for top in found] == list(drawn)
