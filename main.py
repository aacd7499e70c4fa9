"""Entry point: `python main.py --config=configs/NAME.py --workdir=DIR [--mode=MODE] ...` (see README.md)."""

import sys

if __name__ == '__main__':
  try:
    from alexnet_jax.cli import main
  except KeyboardInterrupt:
    sys.exit(130)
  except ModuleNotFoundError as error:
    if (error.name or '').startswith('alexnet_jax'):
      raise
    print(
      f'error: the package {error.name} is not installed: activate the environment (. .venv/bin/activate), '
      'or install the packages (pip install -c constraints.txt -r requirements.txt)',
      file=sys.stderr,
    )
    sys.exit(2)
  main.entry_point()
