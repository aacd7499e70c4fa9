"""The training loop, its hooks, and the modules that only a training run uses."""
