"""The files of a run: checkpoints, config, lock and metrics."""
