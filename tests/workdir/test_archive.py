"""An archive is read as it was written; files that do not hold the network are refused."""

import numpy as np
import pytest

from alexnet_jax import config as config_lib
from alexnet_jax.config import recipes
from alexnet_jax.errors import UserError
from alexnet_jax.workdir import archive


def test_a_workdir_and_a_file_have_a_config(tmp_path):
  text = config_lib.to_json(recipes.get('owt'))
  (tmp_path / config_lib.FILE).write_text(text)
  path = tmp_path / 'net.safetensors'
  archive.write_tensors(str(path), {}, {'format': 'alexnet_jax', 'version': '1', 'config': text})
  assert archive.is_archive(path) and not archive.is_archive(tmp_path)
  assert archive.read_config(path).recipe == archive.read_config(tmp_path).recipe == 'owt'
  archive.write_tensors(str(path), {}, {'format': 'pt'})
  with pytest.raises(UserError, match='is not an archive of this project'):
    archive.read_config(path)


def test_tensors_that_do_not_fit_are_listed(tmp_path):
  path = str(tmp_path / 'net.safetensors')
  config = recipes.get('original')
  config.model.num_classes = 3
  metadata = {'format': 'alexnet_jax', 'version': '1'}
  archive.write_tensors(path, {'params/fc8/bias': np.zeros(4, np.float32)}, metadata)
  with pytest.raises(UserError, match=r'fc8/bias: expected \[3\], found \[4\]'):
    archive.read_network(path, config)
