"""Measures the speed of inference, compared with PyTorch and with the peak rate of the machine.

  python -m benchmarks.inference [--batch=128] [--recipe=paper] [--dtype=float32] [--mesh=1,1] [--rounds=5]

Both sides compute probabilities from uint8 images of the network's input size with the same weights. The
probabilities must agree within 1e-3 before the sides are timed alternately. The forms of PyTorch's side
and the line of JSON are described in benchmarks/train_step.py.
"""

import json
import os

import numpy as np

from alexnet_jax import models
from benchmarks import sides

_TOLERANCE = 1e-3


def peers_of(config, inputs, ours) -> tuple[dict, dict]:
  """Returns PyTorch's functions that classify a batch, by name, and details for the output."""
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
  racers, details = peers_of(config, inputs, ours) if sides.has_peer(config) else ({}, {})
  speeds = sides.race(
    {'ours': lambda batch: ours.probabilities(batch['image'])} | racers, inputs, args.rounds
  )
  flops = 2.0 * sum(row['macs'] for row in models.layer_table(config.model))
  result = sides.outcome(args, speeds, flops) | sides.costs(ours, ours.predict)
  print(json.dumps(result | {'peer_details': details}))


if __name__ == '__main__':
  main()
