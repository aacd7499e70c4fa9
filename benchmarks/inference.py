"""How fast images are classified, beside PyTorch and beside what the machine can do.

  python -m benchmarks.inference [--batch=128] [--recipe=paper] [--dtype=float32] [--mesh=1,1] [--rounds=5]

Both sides take uint8 images of the network's size and give probabilities, with the same weights; these must
agree within 1e-3 first. Then they take turns. Sides and the line of JSON are as benchmarks/train_step.py's.
"""

import json
import os

import numpy as np

from alexnet_jax import models
from benchmarks import sides

_TOLERANCE = 1e-3


def peers_of(config, inputs, ours) -> tuple[dict, dict]:
  """PyTorch's side: named functions that classify a batch, and what is to be said of them."""
  from benchmarks import torch_peer

  device, params = torch_peer.ready(os.cpu_count()), ours.params()
  form, trials = torch_peer.fastest_form(config, params, device, torch_peer.predict)
  racers = torch_peer.racers(config, params, form, device, torch_peer.predict)
  images = inputs[0]['image']
  apart = np.abs(ours.probabilities(images) - next(iter(racers.values()))(inputs[0])).max()
  if apart > _TOLERANCE:
    raise SystemExit(f'the probabilities of the two sides differ by {apart:g}')
  return racers, {'form': str(form), 'forms': trials, 'probabilities_differ_by': float(apart)}


def main() -> None:
  args = sides.flags(__doc__).parse_args()
  sides.prepare(args)
  config = sides.config_of(args, args.batch)
  inputs = sides.batches(config)
  ours = sides.Ours(config)
  ours.compile_predict(inputs[0])
  racers, told = peers_of(config, inputs, ours) if sides.has_peer() else ({}, {})
  speeds = sides.race(
    {'ours': lambda batch: ours.probabilities(batch['image'])} | racers, inputs, args.rounds
  )
  flops = 2.0 * sum(row['macs'] for row in models.layer_table(config.model))
  result = sides.outcome(args, speeds, flops) | sides.costs(ours, ours.predict)
  print(json.dumps(result | {'peer_details': told}))


if __name__ == '__main__':
  main()
