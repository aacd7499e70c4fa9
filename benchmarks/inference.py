"""How fast images are classified, beside PyTorch and beside what the machine can do.

  python -m benchmarks.inference [--batch=128] [--recipe=paper] [--dtype=float32] [--mesh=1,1] [--rounds=5]

Both sides take uint8 images of the network's size and give probabilities, with the same weights; these must
agree within 1e-3 first. Then they take turns in one process. One line of JSON, as benchmarks/train_step.py's.
"""

import importlib.util
import json
import os

from absl import logging
import numpy as np

from alexnet_jax import models
from benchmarks import machine, sides
from benchmarks.train_step import say

_TOLERANCE = 1e-3


def peers_of(config, inputs, ours) -> tuple[dict, dict]:
  """PyTorch's side: named trainers, and what is to be said of them."""
  from benchmarks import torch_peer

  device = torch_peer.ready(os.cpu_count())
  params, trials, peers = ours.params(), {}, {}
  for form in torch_peer.forms(config.model):
    peer = torch_peer.Trainer(config, params, form, device)
    work = lambda batch, peer=peer: peer.probabilities(batch['image'])
    sides.rate(work, inputs, 1)
    trials[form] = max(sides.rate(work, inputs, 2) for _ in range(2))
    say(f'peer, {form}: {trials[form]:.1f} images/s')
  best = max(trials, key=trials.get)
  peers['eager'] = torch_peer.Trainer(config, params, best, device)
  if device == 'cuda':
    peers['compiled'] = torch_peer.Trainer(
      config, params, torch_peer.Form(True, True, best.norm), device, compiled=True
    )
  images = inputs[0]['image']
  apart = np.abs(ours.probabilities(images) - peers['eager'].probabilities(images)).max()
  if apart > _TOLERANCE:
    raise SystemExit(f'the probabilities of the two sides differ by {apart:g}')
  told = {'form': str(best), 'forms': {str(form): round(v, 1) for form, v in trials.items()}}
  return peers, told | {'probabilities_differ_by': float(apart)}


def main() -> None:
  args = sides.flags(__doc__).parse_args()
  sides.prepare(args)
  config = sides.config_of(args, args.batch)
  inputs = sides.batches(config)
  ours = sides.Ours(config)
  ours.compile_predict(inputs[0])
  racers, told, torch_rate = {}, {}, 0.0
  if importlib.util.find_spec('torch'):
    peers, told = peers_of(config, inputs, ours)
    torch_rate = machine.torch_matmul_rate(args.dtype)
    racers = {
      name: lambda batch, peer=peer: peer.probabilities(batch['image'])
      for name, peer in peers.items()
    }
  else:
    logging.warning('PyTorch is not installed (pip install torch): no peer')
  own = {'ours': lambda batch: ours.probabilities(batch['image'])}
  speeds = sides.race(own | racers, inputs, args.rounds)
  ceiling = max(machine.jax_matmul_rate(args.dtype), torch_rate)
  flops = 2.0 * sum(row['macs'] for row in models.layer_table(config.model))
  result = sides.outcome(args, speeds, flops, ceiling)
  result['peer_details'] = told
  result['compile_s'] = ours.compile_s
  result['temporary_bytes'] = ours.predict.memory_analysis().temp_size_in_bytes
  print(json.dumps(result))


if __name__ == '__main__':
  main()
