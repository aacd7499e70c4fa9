"""Stores: canvases that `--mode=prepare` writes once and training reads many times."""
