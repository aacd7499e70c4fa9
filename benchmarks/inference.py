"""How fast images are classified, beside PyTorch and beside what the machine can do.

  python -m benchmarks.inference [--batch=128] [--recipe=paper] [--dtype=float32] [--mesh=1,1] [--rounds=5]

Both sides take uint8 images of the network's size and give probabilities, with the same weights; these must
agree within 1e-3 first. Then they take turns in one process. One line of JSON, as benchmarks/train_step.py's.
"""

import json
import os

import numpy as np

from alexnet_jax import models
from benchmarks import sides

_TOLERANCE = 1e-3


def peers_of(config, inputs, ours) -> tuple[dict, dict]:
  """PyTorch's side: named calls, and what is to be said of them."""
  from benchmarks import torch_peer

  device, params = torch_peer.ready(os.cpu_count()), ours.params()
  form, trials = torch_peer.fastest_form(config, params, device, inputs, of_batch)
  racers = torch_peer.trainers(config, params, form, device)
  images = inputs[0]['image']
  apart = np.abs(ours.probabilities(images) - racers['eager'].probabilities(images)).max()
  if apart > _TOLERANCE:
    raise SystemExit(f'the probabilities of the two sides differ by {apart:g}')
  told = {'form': str(form), 'forms': trials, 'probabilities_differ_by': float(apart)}
  return {name: of_batch(racer) for name, racer in racers.items()}, told


def of_batch(side):
  """Classifies the images of a batch."""
  return lambda batch: side.probabilities(batch['image'])


def main() -> None:
  args = sides.flags(__doc__).parse_args()
  sides.prepare(args)
  config = sides.config_of(args, args.batch)
  inputs = sides.batches(config)
  ours = sides.Ours(config)
  ours.compile_predict(inputs[0])
  racers, told = peers_of(config, inputs, ours) if sides.has_peer() else ({}, {})
  speeds = sides.race({'ours': of_batch(ours)} | racers, inputs, args.rounds)
  flops = 2.0 * sum(row['macs'] for row in models.layer_table(config.model))
  result = sides.outcome(args, speeds, flops) | sides.costs(ours, ours.predict)
  print(json.dumps(result | {'peer_details': told}))


if __name__ == '__main__':
  main()
