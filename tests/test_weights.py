"""The networks in weights/ load on a fresh clone, are small, and classify what they were trained for."""

import re

import numpy as np
from PIL import Image, ImageDraw
import pytest
from tiny import ROOT

import alexnet_jax
from alexnet_jax.evaluation import loading
from alexnet_jax.serve import about
from alexnet_jax.workdir import archive

FOLDER = ROOT / 'weights'
README = FOLDER / 'README.md'
FILES = sorted(FOLDER.glob('*.safetensors'))


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
def test_probabilities_add_up_to_one(path):
  network = alexnet_jax.load(path)
  (top,) = network.predict([np.zeros((40, 30, 3), np.uint8)])
  assert {row['label'] for row in top} <= set(network.class_names)
  assert 0 < sum(row['probability'] for row in top) <= 1 + 1e-6


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
