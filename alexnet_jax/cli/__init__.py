"""The command line: `python main.py` and the installed command `alexnet-jax`."""
