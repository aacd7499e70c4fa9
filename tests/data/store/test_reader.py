"""Damaged and unfinished stores and those with other canvases are refused."""

import json

from data_helpers import make_config, make_store_config
import pytest

from alexnet_jax.data.prepare import prepare
from alexnet_jax.data.sources import open_source
from alexnet_jax.errors import UserError


def test_a_truncated_store_is_refused(tmp_path):
  output = tmp_path / 'store'
  prepare(make_store_config(format='raw'), str(output))
  file = output / 'images-train.array_record-00001-of-00005'
  whole = file.read_bytes()
  file.write_bytes(whole[:-1])
  with pytest.raises(UserError, match='00001-of-00005 has'):
    open_source(make_config(f'store:{output}'))
  file.unlink()
  with pytest.raises(UserError, match='has 0 of'):
    open_source(make_config(f'store:{output}'))
  file.write_bytes(whole)
  (output / 'store.npz').write_bytes(b'no arrays')
  with pytest.raises(UserError, match=r'store\.npz is damaged'):
    open_source(make_config(f'store:{output}'))


def test_missing_and_incompatible_stores_are_refused(tmp_path):
  with pytest.raises(UserError, match='there is no store'):
    open_source(make_config(f'store:{tmp_path / "nowhere"}'))
  output = tmp_path / 'store'
  prepare(make_store_config(), str(output))
  config = make_config(f'store:{output}')
  config.canvas.size = 32
  with pytest.raises(UserError, match=r'size 24, not 32: set --config\.data\.canvas\.size=24'):
    open_source(config)
  config.canvas.size = 24
  meta = json.loads((output / 'store.json').read_text())
  (output / 'store.json').write_text(json.dumps(meta | {'version': 9}))
  with pytest.raises(UserError, match='has version 9'):
    open_source(config)
  (output / 'store.json').write_text('damaged')
  with pytest.raises(UserError, match=r'store\.json cannot be read'):
    open_source(config)


def test_a_store_that_names_files_outside_is_refused(tmp_path):
  output = tmp_path / 'store'
  prepare(make_store_config(), str(output))
  meta = json.loads((output / 'store.json').read_text())
  meta['splits']['train']['shards'][0]['file'] = '../elsewhere'
  (output / 'store.json').write_text(json.dumps(meta))
  with pytest.raises(UserError, match=r"names '\.\./elsewhere', which is not in the store"):
    open_source(make_config(f'store:{output}'))
