"""Entry point: `python main.py --config=configs/NAME.py --workdir=DIR [--mode=MODE] ...` (see README.md)."""

import sys

if __name__ == '__main__':
  try:
    from alexnet_jax.cli import main
  except KeyboardInterrupt:
    sys.exit(130)
  main.entry_point()
