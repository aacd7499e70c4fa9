"""The name of the processor of this machine."""

import pathlib
import platform

CPUINFO = pathlib.Path('/proc/cpuinfo')  # Linux only


def name() -> str:
  """Returns the name of the processor as Linux knows it, or else what `platform` says."""
  try:
    lines = CPUINFO.read_text().splitlines()
  except OSError:
    lines = []
  names = (line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
  return next(names, '') or platform.processor() or platform.machine()
