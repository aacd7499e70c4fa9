"""Names of files that cannot be written are refused."""

import os

import pytest

from alexnet_jax.errors import UserError
from alexnet_jax.utils import output_path


def test_the_folder_is_made(tmp_path):
  path = tmp_path / 'new' / 'folder' / 'x.csv'
  assert output_path.check(str(path), ('.json', '.csv')) == path and path.parent.is_dir()
  assert not path.exists()


def test_a_file_in_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
  """The file would be replaced by one that is written beside it. Root may write to every folder."""
  path = tmp_path / 'x.csv'
  path.write_text('old')
  for refused in (tmp_path, path):
    monkeypatch.setattr(os, 'access', lambda name, mode, refused=refused: name != refused)
    with pytest.raises(UserError, match=f'{refused} cannot be written: name another file$'):
      output_path.check(str(path))


def test_what_cannot_be_written_is_refused(tmp_path):
  (tmp_path / 'file').write_text('')
  for name, message in (
    ('x.doc', r'--picture=.*x\.doc: use a name that ends in \.png or \.pdf'),
    ('file/x.png', r'its folder cannot be made \(.*\): name another one'),
    ('', 'use a name that ends in'),
  ):
    with pytest.raises(UserError, match=message):
      output_path.check(str(tmp_path / name), ('.png', '.pdf'), '--picture')
  with pytest.raises(UserError, match='is a folder: name a file'):
    output_path.check(str(tmp_path))
