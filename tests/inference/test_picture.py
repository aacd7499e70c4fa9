"""A picture as Figure 4 (left) of the paper shows images, true labels and bars."""

import numpy as np
from PIL import Image
import pytest

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError
from alexnet_jax.inference import picture, predict


@pytest.mark.parametrize('suffix', ['.png', '.svg'])
def test_the_picture_shows_images_labels_and_bars(workdir, tmp_path, suffix):
  """The true label of an image is the name of its folder."""
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


def test_the_picture_takes_images_of_every_folder_in_turn():
  paths = [f'{folder}/{i}.jpg' for folder in 'abc' for i in range(30)]
  chosen = picture.choose([*paths, 'd/0.jpg'])
  assert len(chosen) == picture.MAX_IMAGES and chosen[-1] == 'd/0.jpg'
  assert [sum(path.startswith(folder) for path in chosen) for folder in 'abc'] == [8, 8, 7]
  assert chosen[:2] == ['a/0.jpg', 'a/1.jpg'] and picture.choose(paths[:3]) == paths[:3]


def test_long_names_are_cut():
  """A name of one word is cut too."""
  for name, shown in (('a' * 26, 'a' * 26), ('a' * 27, 'a' * 23 + '...'), (None, '')):
    assert picture._shorten(name) == shown


def test_unknown_formats_are_refused(tmp_path):
  with pytest.raises(UserError, match=r'--picture=x\.gif: use a name that ends in \.png or'):
    picture.check('x.gif')
  picture.check('x.PNG')


def test_a_picture_is_replaced_atomically(tmp_path):
  path = tmp_path / 'x.png'
  path.write_bytes(b'old')
  image = np.zeros((8, 8, 3), np.uint8)
  top = [{'label': 'a' * 90, 'probability': 1.0}]
  with pytest.raises(TypeError):
    picture.draw(str(path), [picture.Panel(image[0, 0], top, None)])
  assert path.read_bytes() == b'old'
  picture.draw(str(path), [picture.Panel(image, top, None)])
  with Image.open(path) as drawn:
    assert drawn.size[0] > 100
  assert [p.name for p in tmp_path.iterdir()] == ['x.png']
