"""Pictures and numbers of a trained network, and one page of them all: `--mode=report`."""
