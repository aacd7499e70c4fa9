"""The shipped configs."""

import pathlib


def shipped() -> dict[str, pathlib.Path]:
  """Returns the paths of the shipped configs by name: `{'quickstart': PATH, ...}`."""
  package = pathlib.Path(__file__).parent.parent
  installed, checkout = package / 'configs', package.parent / 'configs'
  folder = installed if installed.is_dir() else checkout
  return {path.stem: path for path in sorted(folder.glob('*.py')) if path.stem != '__init__'}
