"""Tests and measures this project on a GPU with one command: `python -m benchmarks.gpu`."""
