"""Compiled programs kept between runs: the second start of the same network compiles nothing."""

import os
import pathlib
import platform

import jax


def keep_programs() -> None:
  """Lets JAX keep what it compiles in the user's cache folder, unless JAX_COMPILATION_CACHE_DIR is set.

  A folder a machine, since programs for one processor may not run on another that shares the home folder.
  Where the folder cannot be made, nothing is kept.
  """
  if 'JAX_COMPILATION_CACHE_DIR' in os.environ:
    return
  root = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  folder = pathlib.Path(root).expanduser() / 'alexnet_jax' / platform.node()
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError:
    return
  jax.config.update('jax_compilation_cache_dir', str(folder))
