"""The report on a trained network, one HTML page: `--mode=report`."""
