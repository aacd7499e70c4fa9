"""Entry point: `python main.py --config=configs/NAME.py --workdir=DIR [--mode=MODE] [--config.key=value]`."""

import sys

from alexnet_jax import cli

if __name__ == '__main__':
  sys.exit(cli.main(sys.argv[1:]))
