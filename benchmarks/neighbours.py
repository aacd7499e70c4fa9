"""Measures the search for nearest neighbours among many vectors (Figure 4, right).

  python -m benchmarks.neighbours [--vectors=100000] [--numbers=4096] [--k=6] [--rounds=5]

Each round looks up one random vector among random vectors with `report.neighbours.Index`. Prints one line of
JSON with the median seconds of a query and their spread.
"""

import argparse
import json
import time

import numpy as np

from alexnet_jax.report import neighbours
from benchmarks import machine


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  for name, default in (('vectors', 100_000), ('numbers', 4096), ('k', 6), ('rounds', 5)):
    parser.add_argument(f'--{name}', type=int, default=default)
  options = parser.parse_args()
  rng = np.random.default_rng(0)
  index = neighbours.Index(rng.random((options.vectors, options.numbers), np.float32))
  seconds = []
  for _ in range(options.rounds):
    query = rng.random((1, options.numbers), np.float32)
    began = time.perf_counter()
    index.nearest(query, options.k)
    seconds.append(time.perf_counter() - began)
  found = {'query_s': machine.spread(seconds), 'hardware': machine.hardware()}
  print(json.dumps(vars(options) | found))


if __name__ == '__main__':
  main()
