"""With the settings of the allocator, a large freed block causes no page faults when it is reused."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from alexnet_jax.utils.memory import keep_freed_memory
if sys.argv[1] == 'keep':
  keep_freed_memory()
def faults():
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):  # the first block may fault in both cases
  before = faults()
  block = np.ones(64 << 20, np.uint8)
  del block
print(faults() - before)
"""


def count_faults(argument):
  done = subprocess.run(
    [sys.executable, '-c', FAULTS, argument], capture_output=True, text=True, check=True
  )
  return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='mallopt is a function of glibc')
def test_freed_memory_is_kept():
  assert count_faults('keep') < 0.1 * count_faults('default')
