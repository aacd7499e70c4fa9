"""Feeds broken input to the code: `python -m tests.faults.fuzz --images=10000 --configs=2000 --files=2000`.

The code must return the right answer or one clear error. It must not crash, hang or print a traceback, and
its memory must stay bounded. test_fuzz.py runs a few hundred such examples.
"""

import argparse
import contextlib
import io
import json
import pathlib
import resource
import signal
import sys
import tempfile
import time
import warnings

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
import numpy as np
from PIL import Image
import tiny

from alexnet_jax import config as config_lib
from alexnet_jax.cli import main as main_lib
from alexnet_jax.data.decode import Canvas, decode_canvas

from . import strategies, work

SECONDS = 30  # the processor time that one example may take
MEBIBYTES = 2048  # the memory that all examples together may add
CANVAS = Canvas(strategies.SIDE, max_pixels=2_000_000)


@contextlib.contextmanager
def bounded():
  """Raises TimeoutError if the code inside takes more than SECONDS of processor time."""

  def time_out(*_):
    raise TimeoutError(f'not done in {SECONDS} s')

  before = signal.signal(signal.SIGVTALRM, time_out)
  signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)


def check_image(data: bytes, canvas: Canvas = CANVAS) -> str:
  """Decodes a file and checks the result. Returns `decoded`, or `refused` after a ValueError."""
  with bounded(), warnings.catch_warnings():
    warnings.simplefilter('ignore')  # Pillow warns about damage that it tolerates
    try:
      image = decode_canvas(data, canvas)
    except ValueError as error:
      assert str(error)
      return 'refused'
  assert image.shape == (canvas.size, canvas.size, 3) and image.dtype == np.uint8
  return 'decoded'


def check_valid_image(form: str, mode: str, size: tuple[int, int], progressive: bool) -> None:
  """Checks that a valid file can be decoded, with exact pixels if it has the size of the canvas."""
  data = strategies.encoded(form, mode, size, progressive)
  assert check_image(data) == 'decoded'
  if size != (strategies.SIDE, strategies.SIDE):
    return
  found = decode_canvas(data, CANVAS)
  with Image.open(io.BytesIO(data)) as image:
    if image.mode.startswith('I'):
      expected = np.round(np.asarray(image, np.float32) / 257).astype(np.uint8)
      expected = np.repeat(expected[:, :, None], 3, axis=2)
    elif image.has_transparency_data:
      image = image.convert('RGBA')
      white = Image.new('RGBA', image.size, 'white')
      white.paste(image, mask=image)
      expected = np.asarray(white.convert('RGB'))
    else:
      expected = np.asarray(image.convert('RGB'))
  np.testing.assert_array_equal(found, expected)


def images(count: dict):
  """Returns a property of image files: one in ten is valid, and two in ten state a wrong size."""

  @given(
    strategies.valid_images(),
    strategies.edits(),
    st.integers(0, 9),
    st.integers(0, 2**31 - 1),
    st.integers(0, 2**31 - 1),
  )
  def check(kind, changes, choice, width, height):
    if choice == 0:
      check_valid_image(*kind)
      outcome = 'valid'
    elif choice <= 2:
      outcome = check_image(strategies.with_size(kind[0], strategies.encoded(*kind), width, height))
    else:
      outcome = check_image(strategies.edited(strategies.encoded(*kind), changes))
    count[outcome] = count.get(outcome, 0) + 1

  return check


def run_command(args: list[str]) -> int:
  """Runs main.py up to the first training step, checks its messages, and returns the exit code."""
  out, err = io.StringIO(), io.StringIO()
  with bounded(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    code = main_lib.main(args, work.prepare_to_train)
  assert code in (main_lib.DONE, main_lib.USER_ERROR, main_lib.RUN_FAILED), code
  errors = [line for line in err.getvalue().splitlines() if line.startswith('error: ')]
  assert len(errors) == (code != main_lib.DONE), err.getvalue()[-500:]
  assert 'Traceback' not in err.getvalue()
  return code


def configs(count: dict, config_file: str):
  """Returns a property of command lines."""
  keys = sorted(config_lib.flatten(tiny.tiny_config()))

  @given(strategies.config_lines(keys))
  def check(lines):
    code = run_command([f'--config={config_file}', '--workdir=w', *lines])
    count[f'exit code {code}'] = count.get(f'exit code {code}', 0) + 1

  return check


def files(count: dict, folder: str):
  """Returns a property of files that a user provides: weights, labels, stores, configs and checkpoints."""
  readers = work.readers(folder)

  @given(st.sampled_from(sorted(readers)), strategies.edits())
  def check(name, changes):
    intact, read = readers[name]
    with bounded():
      outcome = 'refused' if read(strategies.edited(intact, changes)) else 'read'
    count[f'{name} {outcome}'] = count.get(f'{name} {outcome}', 0) + 1

  return check


def run(check, number: int, chosen_seed: int) -> None:
  """Checks a property with `number` examples."""
  options = settings(
    max_examples=number,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
  )
  seed(chosen_seed)(options(check))()


def write_config(folder: str) -> str:
  """Writes a config file for the tiny network and returns its path."""
  from tiny import write_config as write

  return str(write(pathlib.Path(folder), data__synthetic__train=12))


def main() -> int:
  parser = argparse.ArgumentParser(prog='python -m tests.faults.fuzz', description=__doc__)
  for name, number in (('images', 10_000), ('configs', 2_000), ('files', 2_000), ('seed', 0)):
    parser.add_argument(f'--{name}', type=int, default=number)
  parser.add_argument(
    '--output', default='', help='file to which the results are appended, as JSON lines'
  )
  options = parser.parse_args()
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  with tempfile.TemporaryDirectory() as folder:
    makers = {
      'images': images,
      'configs': lambda count: configs(count, write_config(folder)),
      'files': lambda count: files(count, folder),
    }
    for name, make in makers.items():
      number = getattr(options, name)
      if not number:
        continue
      count, began = {}, time.monotonic()
      run(make(count), number, options.seed)
      grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
      assert grown < MEBIBYTES, f'memory grew by {grown:.0f} MiB'
      found = {
        'what': name, 'examples': sum(count.values()), 'outcomes': dict(sorted(count.items())),
        'crashes': 0, 'memory_grew_mib': round(grown), 'seconds': round(time.monotonic() - began),
        'seed': options.seed,
      }  # fmt: skip
      print(json.dumps(found), flush=True)
      if options.output:
        with open(options.output, 'a') as file:
          file.write(json.dumps(found) + '\n')
  return 0


if __name__ == '__main__':
  sys.exit(main())
