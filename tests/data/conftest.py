"""A folder of small images for the tests of alexnet_jax.data."""

from collections.abc import Callable
import pathlib

from data_helpers import encode, photo
import pytest


@pytest.fixture
def make_folder(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
  """A function that takes numbers of images, such as {'train/cat': 3}, and writes them into a new folder."""

  def make(counts: dict[str, int], root: str = 'set') -> pathlib.Path:
    for k, (folder, number) in enumerate(counts.items()):
      (tmp_path / root / folder).mkdir(parents=True)
      for i in range(number):
        (tmp_path / root / folder / f'{i:03}.jpg').write_bytes(encode(photo(100 * k + i)))
    return tmp_path / root

  return make
