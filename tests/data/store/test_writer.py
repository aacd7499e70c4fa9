"""Writing a store survives kills and full disks, and reports bad files."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

from data_helpers import contents, encode, make_config, make_store_config, photo
import numpy as np
from PIL import Image
import pytest

from alexnet_jax.data import open_dataset
from alexnet_jax.data.decode import Canvas
from alexnet_jax.data.prepare import prepare
from alexnet_jax.data.sources import open_source
from alexnet_jax.errors import RunError, UserError

FORMATS = pytest.mark.parametrize('form', ['jpeg', 'raw'])
CANVAS = Canvas(24, max_pixels=10**6)


KILLED = """
import sys
sys.path[:0] = {path!r}
from data_helpers import make_store_config
from alexnet_jax.data.prepare import prepare
config = make_store_config({source!r})
config.data.synthetic.train = 1000
prepare(config, {output!r})
"""


def prepare_and_kill(output: pathlib.Path, shards: int) -> None:
  """Runs `prepare` and kills it when some shards are finished and others are not."""
  code = KILLED.format(path=[p for p in sys.path if p], source='synthetic', output=str(output))
  process = subprocess.Popen([sys.executable, '-c', code], stderr=subprocess.DEVNULL)
  deadline = time.monotonic() + 100
  while len(list(output.glob('parts/*.npz'))) < shards and time.monotonic() < deadline:
    assert process.poll() is None
    time.sleep(0.005)
  process.send_signal(signal.SIGKILL)
  process.wait()


@pytest.mark.long
def test_a_killed_job_is_resumed(tmp_path):
  config = make_store_config()
  config.data.synthetic.train = 1000
  prepare(config, str(tmp_path / 'whole'))
  output = tmp_path / 'killed'
  prepare_and_kill(output, 3)
  assert not (output / 'store.json').exists()
  finished = {path: path.stat().st_mtime_ns for path in output.glob('images-*[0-9]-of-?????')}
  assert 3 <= len(finished) < 200
  with pytest.raises(UserError, match='not finished'):
    open_dataset(make_config(f'store:{output}'), 0)
  prepare(config, str(output))
  assert contents(output) == contents(tmp_path / 'whole')
  redone = [path for path, when in finished.items() if path.stat().st_mtime_ns != when]
  assert len(redone) <= 1  # the index of one shard may not have been written


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
prepare(make_store_config(), {first!r})  # imports its modules while it has permission to read them
if os.geteuid() == 0:
  os.setgid(65534)
  os.setuid(65534)
config = make_store_config('folder:{root}', max_bad_share=1.0, drop_bad_validation=True)
print(json.dumps(prepare(config, {output!r})))
"""


@pytest.fixture
def open_folder():
  """A folder that every user may read and write, unlike tmp_path."""
  with tempfile.TemporaryDirectory() as folder:
    os.chmod(folder, 0o777)
    yield pathlib.Path(folder)


def test_readable_images_are_stored_and_others_are_reported(open_folder, tmp_path):
  root, output = open_folder / 'set', open_folder / 'store'
  (root / 'a').mkdir(parents=True)
  (root / 'b').mkdir()
  for i, (name, data) in enumerate((BAD | ODD | GOOD).items()):
    (root / 'ab'[i % 2] / name).write_bytes(data)
  (root / os.fsdecode(b'a/\xff\xfe.jpg')).write_bytes(encode(photo(10)))  # not valid Unicode
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


def test_a_job_is_resumed_after_a_full_disk(tmp_path):
  output = tmp_path / 'store'
  (output / 'parts').mkdir(parents=True)
  job = make_store_config(shuffle=False)
  path = output / f'images-train.array_record-00002-of-00005.{socket.gethostname()}.{os.getpid()}'
  os.symlink('/dev/full', path)  # the disk is full at the third file
  with pytest.raises(RunError, match=r'00002-of-00005.*has space and is writable'):
    prepare(job, str(output))
  assert len(list(output.glob('images-*'))) == 2
  prepare(job, str(output))
  prepare(job, str(tmp_path / 'whole'))
  assert contents(output) == contents(tmp_path / 'whole')
