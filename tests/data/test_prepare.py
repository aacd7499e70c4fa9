"""`--mode=prepare` can divide its work, and refuses invalid arguments."""

import errno
import json
import os
import pathlib

from data_helpers import contents, make_config, make_store_config, photo, rotated
import numpy as np
import pytest

from alexnet_jax.data import decode_canvas, open_dataset
from alexnet_jax.data.decode import Canvas
from alexnet_jax.data.prepare import prepare
from alexnet_jax.data.store import writer
from alexnet_jax.errors import RunError, UserError


def test_a_job_array_writes_the_same_store(tmp_path):
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  expected = prepare(make_store_config(), str(whole))
  for k, shard in enumerate(('2/3', '3/3')):
    result = prepare(make_store_config(), str(parts), shard)
    assert result['shards_left'] == (5, 2)[k] and result['images'] is None
    with pytest.raises(UserError, match='not finished'):
      open_dataset(make_config(f'store:{parts}'), 0)
  result = prepare(make_store_config(), str(parts), '1/3')
  assert result == expected | {'store': str(parts), 'report': str(parts / 'report.json')}
  assert contents(parts) == contents(whole)


def test_a_part_notices_that_another_one_has_finished_the_store(tmp_path, monkeypatch):
  config, output, write_shards = make_store_config(), str(tmp_path / 'store'), writer._write_shards

  def write_then_let_the_other_part_finish(*arguments):
    write_shards(*arguments)
    monkeypatch.undo()
    finished.append(prepare(config, output, '2/2'))

  finished: list[dict] = []
  monkeypatch.setattr(writer, '_write_shards', write_then_let_the_other_part_finish)
  assert prepare(config, output, '1/2') == finished[0]
  assert finished[0]['shards_left'] == 0 and not (tmp_path / 'store' / 'parts').exists()


def test_a_source_that_is_out_of_reach_ends_the_job(tmp_path, make_folder, monkeypatch):
  """The images would otherwise be skipped, and the store would be complete without them."""
  root, read = make_folder({'train/a': 3, 'train/b': 3, 'val/a': 1}), pathlib.Path.read_bytes

  def fail(path):
    if path.name == '001.jpg':
      raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    return read(path)

  config, output = make_store_config(f'folder:{root}'), str(tmp_path / 'store')
  with monkeypatch.context() as patch:
    patch.setattr(pathlib.Path, 'read_bytes', fail)
    with pytest.raises(RunError, match=r'001\.jpg cannot be read .*: bring its disk or network'):
      prepare(config, output)
  result = prepare(config, output)
  assert result['skipped'] == 0 and result['images'] == {'train': 6, 'validation': 1}


def test_a_damaged_store_is_not_complete(tmp_path):
  config, output = make_store_config(), tmp_path / 'store'
  prepare(config, str(output))
  next(output.glob('images-train*')).unlink()
  with pytest.raises(UserError, match='copy it again, or remove the store and prepare it again'):
    prepare(config, str(output))


def test_the_flag_shard_is_parsed():
  assert writer.part_of('0/4') == writer.part_of('4/4') == (0, 4)
  assert writer.part_of('') == (0, 1)


@pytest.mark.parametrize('shard', ['1', '4/3', '0/0', 'a/b', '-1/2'])
def test_invalid_shards_are_refused(tmp_path, shard):
  with pytest.raises(UserError, match=f'--shard={shard}: write i/n'):
    prepare(make_store_config(), str(tmp_path / 'new'), shard)


def test_photographs_are_stored_upright(tmp_path, caplog):
  """The setting is recorded, and a run with another setting gets a warning."""
  for name in ('train/a', 'train/b', 'val/a'):
    folder = tmp_path / 'set' / name
    folder.mkdir(parents=True)
    (folder / '0.jpg').write_bytes(rotated(photo(3), quality=95))
  upright = decode_canvas(photo(3), Canvas(24)).astype(int)
  for turn in (True, False):
    output = tmp_path / f'store {turn}'
    config = make_store_config(f'folder:{tmp_path / "set"}')
    config.data.canvas.exif_orientation = turn
    prepare(config, str(output))
    prepare(config, str(output))  # nothing to do
    canvas = json.loads((output / 'store.json').read_text())['canvas']
    assert canvas.get('exif_orientation', False) == turn
    config.data.source = f'store:{output}'
    caplog.clear()
    data = open_dataset(config.data, 0)
    assert 'was prepared with' not in caplog.text
    difference = np.abs(data.canvases('train', [0])[0] - upright).mean()
    assert (difference < 10) == turn
    config.data.canvas.exif_orientation = not turn
    open_dataset(config.data, 0)
    assert f'was prepared with config.data.canvas.exif_orientation={turn}' in caplog.text
  config = make_store_config(f'folder:{tmp_path / "set"}')
  config.data.canvas.exif_orientation = True
  with pytest.raises(UserError, match='with a different canvas'):
    prepare(config, str(tmp_path / 'store False'))
