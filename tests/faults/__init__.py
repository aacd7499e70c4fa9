"""Breaks real runs on purpose, many times, and compares them with one that nothing disturbed.

`python -m tests.faults --rounds=200 --seed=0` is the campaign, `--controls` shows that it has teeth,
`python -m tests.faults.fuzz` throws broken images, configs and other files at the code, and
`python -m tests.faults.sigterm` measures how soon a full-size run stops.
"""

import os
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # for tiny and helpers
# Before JAX: one kind of device, and compiled steps that all runs share.
_CACHE = os.path.join(tempfile.gettempdir(), f'alexnet_jax_test_cache_{os.getuid()}')
for _name, _value in {
  'JAX_PLATFORMS': 'cpu',
  'JAX_COMPILATION_CACHE_DIR': _CACHE,
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  'TF_CPP_MIN_LOG_LEVEL': '3',
}.items():
  os.environ.setdefault(_name, _value)
