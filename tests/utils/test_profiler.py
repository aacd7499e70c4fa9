"""The profiler traces the steps of its window."""

import jax.numpy as jnp

from alexnet_jax.utils import profiler


def test_a_window_is_traced_once(tmp_path):
  window = profiler.Window(tmp_path, (2, 3))
  traced = []
  for step in range(6):
    window.at(step, jnp.ones(3) * step)
    traced.append(window._running)
  window.close()
  assert traced == [False, True, True, False, False, False]  # before steps 1 to 6
  assert list((tmp_path / 'profile').rglob('*.xplane.pb'))


def test_a_window_is_closed_with_the_run(tmp_path):
  window = profiler.Window(tmp_path, (1, 100))
  window.at(0, jnp.ones(3))
  window.close()
  window.close()
  assert list((tmp_path / 'profile').rglob('*.xplane.pb'))


def test_a_quiet_process_traces_nothing(tmp_path):
  window = profiler.Window(tmp_path, (1, 2), quiet=True)
  window.at(0, jnp.ones(3))
  window.close()
  assert not (tmp_path / 'profile').exists()
