"""The folder in which compiled programs are stored."""

import platform

import jax
import pytest

from alexnet_jax.utils.compilation_cache import keep_programs


@pytest.fixture
def cache_dir():
  """The compilation cache folder of JAX, which is restored at the end."""
  before = jax.config.jax_compilation_cache_dir
  yield lambda: jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', before)


def test_programs_are_stored_in_a_folder_for_this_machine(cache_dir, tmp_path, monkeypatch):
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  keep_programs()
  folder = tmp_path / 'alexnet_jax' / platform.node()
  assert folder.is_dir() and cache_dir() == str(folder)


def test_a_variable_takes_precedence_and_a_bad_folder_is_ignored(cache_dir, tmp_path, monkeypatch):
  before = cache_dir()
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', 'elsewhere')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  keep_programs()
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
  (tmp_path / 'file').write_text('')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
  keep_programs()
  assert cache_dir() == before and not (tmp_path / 'alexnet_jax').exists()
