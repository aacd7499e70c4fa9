"""A few hundred broken inputs are refused or read correctly; tests/faults/fuzz.py runs ten thousand."""

import resource

import numpy as np
import pytest

from alexnet_jax.data.decode import Canvas, decode_canvas
from faults import fuzz, strategies


@pytest.mark.long
def test_broken_images_are_decoded_or_refused():
  count = {}
  fuzz.run(fuzz.images(count), 300, 0)
  assert set(count) == {'valid', 'decoded', 'refused'}


@pytest.mark.parametrize('form', strategies.MODES)
def test_valid_images_have_exact_pixels(form):
  for mode in strategies.MODES[form]:
    for progressive in (False, True):
      fuzz.check_valid_image(form, mode, (strategies.SIDE,) * 2, progressive)


@pytest.mark.long
def test_a_decompression_bomb_is_refused_before_it_is_decompressed():
  """A file of a megabyte with a gigabyte of pixels exceeds the default limit, which the message names."""
  bomb = strategies.bomb(20_000)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  with pytest.raises(ValueError, match=r'20000x20000 pixels; the limit is|exceeds limit'):
    decode_canvas(bomb, Canvas())
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024
  assert (decode_canvas(strategies.bomb(500), Canvas(24)) == np.zeros(3, np.uint8)).all()


@pytest.mark.long
def test_broken_configs_get_one_error(tmp_path):
  config, count = fuzz.write_config(str(tmp_path)), {}
  assert fuzz.run_command([f'--config={config}', '--workdir=w']) == 0
  fuzz.run(fuzz.configs(count, config), 60, 0)
  assert count['exit code 2'] > 30


def test_broken_files_are_read_or_refused(tmp_path):
  count = {}
  fuzz.run(fuzz.files(count, str(tmp_path)), 200, 0)
  assert sum(number for name, number in count.items() if name.endswith('refused')) > 100
