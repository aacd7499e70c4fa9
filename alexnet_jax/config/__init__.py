"""Configs: their keys, the recipes, reading them from files and workdirs, and checking them."""

from alexnet_jax.config.io import (
  FILE,
  flatten,
  from_json,
  load_file,
  load_workdir,
  to_json,
)
from alexnet_jax.config.validation import check_same_run, validate
from alexnet_jax.utils.shipped import shipped

__all__ = [
  'FILE',
  'check_same_run',
  'flatten',
  'from_json',
  'load_file',
  'load_workdir',
  'shipped',
  'to_json',
  'validate',
]
