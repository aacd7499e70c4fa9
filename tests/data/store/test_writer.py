"""Stores: what they hold, who can open them, and what kills, full disks and bad files leave."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import chex
from data_helpers import encode, make_config, make_store_config, photo
import numpy as np
from PIL import Image
import pytest

from alexnet_jax.data import decode_canvas, open_dataset
from alexnet_jax.data.decode import Canvas
from alexnet_jax.data.prepare import prepare
from alexnet_jax.data.sources import open_source
from alexnet_jax.data.store import writer
from alexnet_jax.errors import RunError, UserError

FORMATS = pytest.mark.parametrize('form', ['jpeg', 'raw'])
CANVAS = Canvas(24, max_pixels=10**6)


def contents(folder: pathlib.Path) -> dict[str, bytes]:
  return {path.name: path.read_bytes() for path in folder.iterdir()}


@FORMATS
def test_plain_tfds_shows_the_same_images_and_labels(make_folder, tmp_path, form):
  tfds = pytest.importorskip('tensorflow_datasets')
  root = make_folder({'train/ä': 7, 'train/b c': 6, 'val/ä': 2})
  output = str(tmp_path / 'store')
  result = prepare(make_store_config(f'folder:{root}', format=form, subsampling='444'), output)
  assert result['images'] == {'train': 13, 'validation': 2} and result['shards_left'] == 0
  builder = tfds.builder_from_directory(output)
  assert builder.info.features['label'].names == ['b c', 'ä']
  source = open_source(make_config(f'store:{output}'))
  files = set()
  for name, split in (('train', source.train), ('validation', source.validation)):
    records = builder.as_data_source(name)
    assert len(records) == len(split)
    for i, record in enumerate(records):
      assert record['label'] == split.labels[i]
      ours = np.zeros((24, 24, 3), np.uint8)
      split.fill(i, ours)
      # TFDS decodes JPEG with a library of its own choice.
      chex.assert_trees_all_close(record['image'].astype(int), ours.astype(int), atol=3)
      file = root / record['file_name'].decode()
      assert file.parent.name == ['b c', 'ä'][record['label']]
      expected = decode_canvas(file.read_bytes(), CANVAS)
      if form == 'raw':
        chex.assert_trees_all_equal(ours, expected)
        chex.assert_trees_all_equal(split.read(i), expected)
      else:
        assert np.abs(ours.astype(int) - expected).mean() < 3
        assert split.read(i)[:2] == b'\xff\xd8'
      files.add(file)
  assert len(files) == 15


@FORMATS
def test_what_a_store_knows(make_folder, tmp_path, form):
  root = make_folder({'train/a': 9, 'train/b': 8, 'val/b': 3})
  output = tmp_path / 'store'
  result = prepare(make_store_config(f'folder:{root}', format=form, quality=80), str(output))
  meta = json.loads((output / 'store.json').read_text())
  assert meta['class_names'] == ['a', 'b'] and meta['format'] == form
  assert meta['splits']['train']['class_counts'] == [9, 8]
  assert [shard['images'] for shard in meta['splits']['train']['shards']] == [5, 4, 4, 4]
  assert meta['plan']['source'] == f'folder:{root}' and meta['plan']['quality'] == 80
  assert result['bytes'] == sum(path.stat().st_size for path in output.glob('images-*'))
  data = open_dataset(make_config(f'store:{output}'), 0)
  found = data.statistics()
  assert not data._iterators  # they were known
  batch = next(data.eval_batches(17, split='train'))
  pixels = batch['image'].reshape(-1, 3).astype(float)
  chex.assert_trees_all_close(
    found.mean_image, batch['image'].mean(0).astype(np.float32), rtol=1e-6
  )
  covariance = np.cov(pixels.T, bias=True)
  chex.assert_trees_all_close(np.array(meta['rgb_covariance']), covariance, rtol=1e-6)
  chex.assert_trees_all_close(np.array(meta['rgb_mean']), pixels.mean(0), rtol=1e-6)
  again = prepare(make_store_config(f'folder:{root}', format=form, quality=80), str(output))
  assert again == result


def test_training_images_are_shuffled_once_or_not_at_all(tmp_path):
  kept, shuffled = str(tmp_path / 'kept'), str(tmp_path / 'shuffled')
  prepare(make_store_config(shuffle=False), kept)
  prepare(make_store_config(), shuffled)
  rows = {path: np.load(f'{path}/store.npz')['train/row'] for path in (kept, shuffled)}
  chex.assert_trees_all_equal(rows[kept], np.arange(21, dtype=np.int32))
  assert (rows[shuffled] != rows[kept]).any()
  chex.assert_trees_all_equal(np.sort(rows[shuffled]), rows[kept])
  chex.assert_trees_all_equal(
    np.load(f'{shuffled}/store.npz')['validation/row'], np.arange(7, dtype=np.int32)
  )


def test_parts_of_a_job_array_make_the_same_store(tmp_path):
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


KILLED = """
import sys
sys.path[:0] = {path!r}
from data_helpers import make_store_config
from alexnet_jax.data.prepare import prepare
config = make_store_config({source!r})
config.data.synthetic.train = 1000
prepare(config, {output!r})
"""


def killed(output: pathlib.Path, shards: int) -> None:
  """Kills a `prepare` when some shards are finished and others are not."""
  code = KILLED.format(path=[p for p in sys.path if p], source='synthetic', output=str(output))
  process = subprocess.Popen([sys.executable, '-c', code], stderr=subprocess.DEVNULL)
  deadline = time.monotonic() + 100
  while len(list(output.glob('parts/*.npz'))) < shards and time.monotonic() < deadline:
    assert process.poll() is None
    time.sleep(0.005)
  process.send_signal(signal.SIGKILL)
  process.wait()


def test_a_kill_leaves_a_store_that_is_resumed(tmp_path):
  config = make_store_config()
  config.data.synthetic.train = 1000
  prepare(config, str(tmp_path / 'whole'))
  output = tmp_path / 'killed'
  killed(output, 3)
  assert not (output / 'store.json').exists()
  finished = {path: path.stat().st_mtime_ns for path in output.glob('images-*[0-9]-of-?????')}
  assert 3 <= len(finished) < 200
  with pytest.raises(UserError, match='not finished'):
    open_dataset(make_config(f'store:{output}'), 0)
  prepare(config, str(output))
  assert contents(output) == contents(tmp_path / 'whole')
  redone = [path for path, when in finished.items() if path.stat().st_mtime_ns != when]
  assert len(redone) <= 1  # the one whose index was not written yet


BAD = {
  'empty.jpg': b'',
  'text.jpg': b'no image at all',
  'truncated.jpg': encode(photo(1, 200, 200))[:3000],
}
ODD = {
  'cmyk.jpg': encode(Image.fromarray(photo(2)).convert('CMYK')),
  'deep.png': encode(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50, 'PNG'),
  'moving.gif': encode(
    Image.fromarray(photo(3)),
    'GIF',
    save_all=True,
    append_images=[Image.fromarray(photo(4))],
  ),
  'png.jpeg': encode(photo(5), 'PNG'),
}
GOOD = {
  'strip.png': encode(photo(6, 1, 4000), 'PNG'),
  'wide.png': encode(photo(7, 4000, 1), 'PNG'),
  'ünïcødé 图像.jpg': encode(photo(8)),
  'gray.jpg': encode(photo(9)[:, :, 0]),
}

UNPRIVILEGED = """
import json, os, sys
sys.path[:0] = {path!r}
from data_helpers import make_store_config
from alexnet_jax.data.prepare import prepare
prepare(make_store_config(), {first!r})  # imports what it needs while it may read it
if os.geteuid() == 0:
  os.setgid(65534)
  os.setuid(65534)
print(json.dumps(prepare(make_store_config('folder:{root}'), {output!r})))
"""


@pytest.fixture
def open_folder():
  """A folder that every user may read and write, unlike pytest's own."""
  with tempfile.TemporaryDirectory() as folder:
    os.chmod(folder, 0o777)
    yield pathlib.Path(folder)


def test_every_good_image_is_stored_and_every_other_one_named(open_folder, tmp_path):
  root, output = open_folder / 'set', open_folder / 'store'
  (root / 'a').mkdir(parents=True)
  (root / 'b').mkdir()
  for i, (name, data) in enumerate((BAD | ODD | GOOD).items()):
    (root / 'ab'[i % 2] / name).write_bytes(data)
  (root / os.fsdecode(b'a/\xff\xfe.jpg')).write_bytes(encode(photo(10)))  # no text at all
  (root / 'b/secret.jpg').write_bytes(encode(photo(11)))
  (root / 'b/secret.jpg').chmod(0)
  code = UNPRIVILEGED.format(
    path=[p for p in sys.path if p], root=root, first=str(tmp_path / 'x'), output=str(output)
  )
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=200)
  assert done.returncode == 0, done.stderr
  result = json.loads(done.stdout)
  report = json.loads((output / 'report.json').read_text())
  named = {kind: {pathlib.Path(line['file']).name for line in report[kind]} for kind in report}
  assert named == {'skipped': {*BAD, 'secret.jpg'}, 'repaired': set(ODD)}
  assert all(line['reason'] for kind in report for line in report[kind])
  assert result['skipped'] == 4 and result['repaired'] == 4
  source = open_source(make_config(f'store:{output}'))
  stored = sum(result['images'].values())
  assert stored == len(ODD) + len(GOOD) + 1 == len(source.train) + len(source.validation)
  data = open_dataset(make_config(f'store:{output}'), 0)
  assert all(
    batch['mask'][batch['index'] >= 0].all() for batch in data.eval_batches(4, split='train')
  )


def test_a_full_disk_leaves_a_store_that_is_resumed(tmp_path):
  output = tmp_path / 'store'
  (output / 'parts').mkdir(parents=True)
  job = make_store_config(shuffle=False)
  path = output / f'images-train.array_record-00002-of-00005.{os.getpid()}'
  os.symlink('/dev/full', path)  # the third file comes upon a full disk
  with pytest.raises(RunError, match=r'00002-of-00005.*free the disk'):
    prepare(job, str(output))
  assert len(list(output.glob('images-*'))) == 2
  prepare(job, str(output))
  prepare(job, str(tmp_path / 'whole'))
  assert contents(output) == contents(tmp_path / 'whole')


def test_a_store_that_was_cut_is_refused(tmp_path):
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


def test_mistakes(make_folder, tmp_path):
  output = str(tmp_path / 'store')
  prepare(make_store_config(), output)
  for change in ({'format': 'raw'}, {'quality': 90}, {'split_seed': 1}):
    with pytest.raises(UserError, match=f'with a different {next(iter(change))}'):
      prepare(make_store_config(**change), output)
  for key, value in (('format', 'png'), ('quality', 0), ('shard_images', 0), ('subsampling', '9')):
    with pytest.raises(UserError, match=f'config.prepare.{key}={value}|{value!r}'):
      prepare(make_store_config(**{key: value}), str(tmp_path / 'new'))
  for shard in ('1', '4/3', '0/0', 'a/b', '-1/2'):
    with pytest.raises(UserError, match=f'--shard={shard}: write i/n'):
      prepare(make_store_config(), str(tmp_path / 'new'), shard)
  with pytest.raises(UserError, match='holds other files'):
    prepare(make_store_config(), str(make_folder({'a': 1})))
  (tmp_path / 'file').write_bytes(b'')
  with pytest.raises(UserError, match='cannot be written'):
    prepare(make_store_config(), str(tmp_path / 'file'))
  with pytest.raises(UserError, match='there is no store'):
    open_source(make_config(f'store:{tmp_path / "nowhere"}'))
  with pytest.raises(UserError, match=r'size 24, not 32: set --config\.data\.canvas\.size=24'):
    config = make_config(f'store:{output}')
    config.canvas.size = 32
    open_source(config)


def test_no_good_image_at_all(make_folder, tmp_path):
  root = make_folder({'train/a': 1, 'train/b': 1})
  for path in root.glob('train/*/*'):
    path.write_bytes(b'')
  with pytest.raises(RunError, match='no training image'):
    prepare(make_store_config(f'folder:{root}'), str(tmp_path / 'store'))


def test_shards_are_as_even_as_can_be():
  assert writer.part_of('0/4') == writer.part_of('4/4') == (0, 4)
  assert writer.part_of('') == (0, 1)
