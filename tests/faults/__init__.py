"""Fault injection interrupts or damages real runs, resumes them, and compares them with an undisturbed run.

`python -m tests.faults --rounds=200 --seed=0` runs the campaign, and `--controls` verifies that the campaign
detects defects. `python -m tests.faults.fuzz` feeds broken images, configs and other files to the code.
`python -m tests.faults.sigterm` measures how long a full-size run takes to stop.
"""

import os
import pathlib
import sys
import tempfile

# The modules tiny and helpers can then be imported.
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
# These are set before JAX is imported. All runs use CPU devices and share one compilation cache.
_CACHE = os.path.join(tempfile.gettempdir(), f'alexnet_jax_test_cache_{os.getuid()}')
for _name, _value in {
  'JAX_PLATFORMS': 'cpu',
  'JAX_COMPILATION_CACHE_DIR': _CACHE,
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  'TF_CPP_MIN_LOG_LEVEL': '3',
}.items():
  os.environ.setdefault(_name, _value)
