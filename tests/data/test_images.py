"""The canvases of a split, on demand and in memory, with masks and checksums."""

import errno
import os
import zlib

import chex
from data_helpers import encode, photo
import numpy as np
import pytest

from alexnet_jax.data.decode import Canvas, decode_canvas
from alexnet_jax.data.images import SplitImages, find_undecodable
from alexnet_jax.data.splits import Split
from alexnet_jax.errors import RunError

CANVAS = Canvas(16)


def make_split(bad=(2,)):
  files = [b'no image' if i in bad else encode(photo(i)) for i in range(5)]
  return Split(np.arange(5, dtype=np.int32), files.__getitem__, lambda i: f'{i}.jpg'), files


def test_images_are_the_same_on_demand_and_in_memory():
  split, files = make_split()
  errors = []
  images = SplitImages(split, CANVAS, lambda i, reason: errors.append((i, reason)))
  indices = np.array([3, -1, 2, 0, 3])
  canvases, mask = images.take(indices)
  assert mask.tolist() == [True, False, False, True, True]
  assert [i for i, _ in errors] == [2] and errors[0][1]
  expected = [
    decode_canvas(files[i], CANVAS) if good else 0 for i, good in zip(indices, mask, strict=True)
  ]
  for found, one in zip(canvases, expected, strict=True):
    assert (found == one).all()
  assert not images.checksums.any()
  images.keep_in_memory(2)
  images.keep_in_memory(2)  # a second call does nothing
  assert [i for i, _ in errors] == [2, 2]
  chex.assert_trees_all_equal(images.take(indices), (canvases, mask))
  assert len(errors) == 2
  sums = [0 if i == 2 else zlib.crc32(data) for i, data in enumerate(files)]
  assert images.checksums.tolist() == sums
  images.free_memory()
  chex.assert_trees_all_equal(images.take(indices), (canvases, mask))
  assert len(errors) == 3  # the images are decoded again


def test_undecodable_images_are_reported_at_once():
  split, _ = make_split(bad=(1, 4))
  found = find_undecodable(split, CANVAS, 2)
  assert sorted(found) == [1, 4] and all(found.values())
  assert find_undecodable(make_split(bad=())[0], CANVAS, 2) == {}


def unreadable(number):
  """Returns a split whose image 3 cannot be read, with an error of the operating system."""
  _, files = make_split(bad=())

  def read(i):
    if i == 3:
      raise OSError(number, os.strerror(number))
    return files[i]

  return Split(np.arange(5, dtype=np.int32), read, lambda i: f'{i}.jpg')


@pytest.mark.parametrize(
  ('number', 'remedy'),
  [(errno.EIO, 'bring its disk'), (errno.ESTALE, 'bring its disk'), (errno.EMFILE, 'ulimit -n')],
)
def test_an_image_that_is_out_of_reach_is_not_undecodable(number, remedy):
  """All later images would be skipped for the same reason."""
  errors = []
  images = SplitImages(unreadable(number), CANVAS, lambda i, reason: errors.append(i))
  for read in (
    lambda: images.take(np.array([0, 3])),
    lambda: images.keep_in_memory(2),
    lambda: find_undecodable(images.split, CANVAS, 2),
  ):
    with pytest.raises(RunError, match=rf'^3\.jpg cannot be read \(.*\): .*{remedy}.*again$'):
      read()
  assert not errors


@pytest.mark.parametrize('number', [errno.ENOENT, errno.EACCES])
def test_an_image_that_is_missing_or_secret_is_undecodable(number):
  split = unreadable(number)
  assert list(find_undecodable(split, CANVAS, 2)) == [3]
  errors = []
  images = SplitImages(split, CANVAS, lambda i, reason: errors.append(i))
  assert images.take(np.array([0, 3]))[1].tolist() == [True, False] and errors == [3]
