"""Image files are found by name, folder or glob, and are read in batches."""

import numpy as np
import pytest

from alexnet_jax.data import Canvas, decode_canvas
from alexnet_jax.errors import UserError
from alexnet_jax.inference import files


def test_missing_images_are_an_error(tmp_path):
  for images, message in (
    (tmp_path, 'the folder has no images'),
    (tmp_path / '*.jpg', 'there is no such image'),
    ('', '--images is empty'),
  ):
    with pytest.raises(UserError, match=message):
      files.find_images([str(images)])


def test_files_folders_and_globs_without_duplicates(pictures):
  found = files.find_images(
    [str(pictures / 'b.png'), str(pictures), f'{pictures}/*.jpg', f'{pictures}/**/*.jpeg']
  )
  names = ['b.png', 'a.jpg', 'broken.jpg', 'deep/c.jpeg', 'empty.png']
  assert found == [str(pictures / name) for name in names]


def test_hidden_files_of_a_folder_are_left_out(tmp_path):
  """macOS writes `._NAME` beside every file on a disk of another system."""
  for name in ('._a.jpg', 'a.jpg'):
    (tmp_path / name).write_bytes(b'')
  assert files.find_images([str(tmp_path)]) == [str(tmp_path / 'a.jpg')]


def test_links_to_folders_are_followed_and_hidden_folders_are_not(tmp_path):
  for name in ('elsewhere/a.jpg', 'photos/b.jpg', 'photos/.thumbs/b.jpg', 'photos/cats/c.jpg'):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b'')
  (tmp_path / 'photos/link').symlink_to(tmp_path / 'elsewhere')
  (tmp_path / 'photos/loop').symlink_to(tmp_path / 'photos')
  (tmp_path / 'photos/again').symlink_to(tmp_path / 'photos/cats')
  names = ['photos/b.jpg', 'photos/cats/c.jpg', 'photos/link/a.jpg']
  assert files.find_images([str(tmp_path / 'photos')]) == [str(tmp_path / name) for name in names]


class Counted:
  """An image that counts how often it is read."""

  reads = 0

  def __array__(self, dtype=None, copy=None):
    self.reads += 1
    return np.full((24, 24, 3), 9, np.uint8)


def test_an_image_that_is_listed_twice_is_read_once():
  """Two threads would disturb each other in the file of a PIL image."""
  image, other = Counted(), Counted()
  listed = [image, other, image, image, image]
  batches = list(files.Reader(listed, Canvas(24), 4))
  assert [names for names, _ in batches] == [listed[:4], listed[4:]]
  assert all((canvases[: len(names)] == 9).all() for names, canvases in batches)
  assert (image.reads, other.reads) == (2, 1)  # once in each batch


@pytest.mark.parametrize('batch_size', [1, 2, 8])
def test_batches_contain_the_readable_files_in_order(pictures, batch_size):
  canvas = Canvas(24)
  paths = files.find_images([str(pictures)])
  reader = files.Reader(paths, canvas, batch_size)
  seen = []
  for names, canvases in reader:
    assert canvases.shape == (batch_size, 24, 24, 3) and canvases.dtype == np.uint8
    assert not canvases[len(names) :].any()
    for name, found in zip(names, canvases, strict=False):
      with open(name, 'rb') as file:
        np.testing.assert_array_equal(found, decode_canvas(file.read(), canvas))
    seen += names
  skipped = [line['path'] for line in reader.skipped]
  assert sorted(seen + skipped) == sorted(paths) and seen == [p for p in paths if p in seen]
  assert str(pictures / 'empty.png') in skipped
  assert all('\n' not in line['reason'] for line in reader.skipped)
