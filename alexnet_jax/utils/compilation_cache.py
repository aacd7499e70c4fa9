"""The persistent compilation cache: a second start of the same network compiles only small programs."""

import os
import pathlib
import platform

import jax


def keep_programs() -> None:
  """Makes JAX keep compiled programs in the user's cache folder.

  An environment variable JAX_COMPILATION_CACHE_DIR takes precedence. Each machine has its own folder,
  since a program that was compiled for one processor may not run on another that shares the home
  folder. If the folder cannot be created, nothing is kept.

  One of several processes must not call this function. JAX writes programs on process 0 alone, which at the
  next start would load a program and not compile it, while the processes on other machines compile it and
  wait for process 0's share of XLA's autotuning on GPUs.
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
