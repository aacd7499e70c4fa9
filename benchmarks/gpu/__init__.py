"""What this project does on a GPU, proved and measured by one command: `python -m benchmarks.gpu`."""
