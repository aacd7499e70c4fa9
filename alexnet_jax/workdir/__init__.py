"""The files of a run: checkpoints, config, lock, metrics and sessions."""
