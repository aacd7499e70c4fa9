"""Fault injection: real runs are interrupted or damaged, resumed, and compared with an undisturbed run.

`python -m tests.faults --rounds=200 --seed=0` runs the campaign, and `--controls` verifies that the campaign
detects defects. `python -m tests.faults.fuzz` feeds broken images, configs and other files to the code.
`python -m tests.faults.sigterm` measures how long a full-size run takes to stop.
"""

import os
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # for the modules tiny and helpers
# Set before JAX is imported: CPU devices only, and one compilation cache for all runs.
_CACHE = os.path.join(tempfile.gettempdir(), f'alexnet_jax_test_cache_{os.getuid()}')
for _name, _value in {
  'JAX_PLATFORMS': 'cpu',
  'JAX_COMPILATION_CACHE_DIR': _CACHE,
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  'TF_CPP_MIN_LOG_LEVEL': '3',
}.items():
  os.environ.setdefault(_name, _value)
