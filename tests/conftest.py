"""Eight CPU devices for every test, set up before anything asks JAX for a device."""

import os
import tempfile

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')  # tests use TensorFlow as a reference
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
# Many tests compile the same tiny steps; subprocesses inherit this too.
_CACHE = os.path.join(tempfile.gettempdir(), f'alexnet_jax_test_cache_{os.getuid()}')
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', _CACHE)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')

# Half the time to compile; subprocesses inherit it.
os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_backend_optimization_level=1'

import jax  # noqa: E402

jax.config.update('jax_num_cpu_devices', 8)
