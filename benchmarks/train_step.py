"""Measures the speed of a training step, compared with PyTorch and with the peak rate of the machine.

  python -m benchmarks.train_step [--batch=128] [--recipe=paper] [--dtype=float32] [--mesh=1,1] [--rounds=5]

Both sides train the same network from the same weights with the same update rule. Every step takes other
uint8 images without augmentation, and each side waits for the loss of each step. Both sides first train
three steps without dropout, and their losses must agree within 1e-3. Then they are timed alternately.
PyTorch (pip install torch) runs in its fastest form, which is determined on small batches. On a CPU it
runs twice: as installed, in a separate process, and in this process with the allocator setting and the
huge pages of `alexnet_jax.utils.memory`. On a GPU it runs eager and compiled.

Prints one line of JSON:

  images_per_s     median of this project
  ratio            this project over each other side, the median of the ratios within the rounds; on a CPU
                   `fair` compares with PyTorch under our memory setting; quote the smaller ratio
  roofline_share   share of the FLOP per second of a large matrix product in the faster of the two libraries;
                   Winograd's convolutions perform fewer operations than are counted here
  spread           median, minimum and maximum of each side
  compile_s        seconds of compilation
  temporary_bytes  temporary memory of the compiled step, to be compared with `activation_bytes`
  peak_bytes       peak memory
  peer_details     the chosen form of PyTorch and its speed at other batch sizes
"""

import json
import os

from alexnet_jax import models
from benchmarks import sides

_TRIAL = 32  # batch size at which the fastest form of PyTorch is determined
_PEER_BATCHES = (32, 64)  # PyTorch is also measured at these batch sizes
_TOLERANCE = 1e-3
_IMAGENET = 1_281_167  # training images of ILSVRC-2012


def check_losses(args, device: str, form) -> list[list[float]]:
  """Returns the losses of three steps of both sides without dropout, from the same weights.

  Raises:
    SystemExit: the losses differ by more than the tolerance.
  """
  from benchmarks import torch_peer

  config = sides.config_of(args, min(_TRIAL, args.batch), dropout=False)
  inputs = sides.batches(config)
  ours = sides.Ours(config)
  peer = torch_peer.Trainer(config, ours.params(), form, device)
  ours.compile_step(inputs[0])
  losses = [[side.step(batch) for batch in inputs[:3]] for side in (ours, peer)]
  apart = max(abs(a - b) for a, b in zip(*losses, strict=True))
  if apart > _TOLERANCE:
    raise SystemExit(f'the losses of the two sides differ by {apart:g}: {losses}')
  return losses


def peers_of(args, config, params) -> tuple[dict, dict]:
  """Returns PyTorch's functions that take a training step, by name, and details for the output."""
  from benchmarks import torch_peer

  device, work = torch_peer.ready(os.cpu_count()), torch_peer.Trainer.step
  small = sides.config_of(args, min(_TRIAL, args.batch))
  form, trials = torch_peer.fastest_form(small, params, device, work)
  losses = check_losses(args, device, form)
  racers = torch_peer.racers(config, params, form, device, work)
  by_batch = {name: {} for name in racers}
  for batch in sorted({*_PEER_BATCHES, args.batch}):
    inputs = sides.batches(sides.config_of(args, batch))
    for name, step in racers.items():
      by_batch[name][batch] = round(max(sides.rate(step, inputs, 2) for _ in range(2)), 1)
  return racers, {'form': str(form), 'forms': trials, 'first_losses': losses, 'by_batch': by_batch}


def main() -> None:
  flags = sides.flags(__doc__)
  flags.add_argument(
    '--plain', action='store_true', help='also measure this project with the reference layers alone'
  )
  args = flags.parse_args()
  sides.prepare(args)
  config = sides.config_of(args, args.batch)
  inputs = sides.batches(config)
  ours = sides.Ours(config)
  racers, details = peers_of(args, config, ours.params()) if sides.has_peer(config) else ({}, {})
  ours.compile_step(inputs[0])
  if args.plain:
    racers['plain layers'] = sides.with_reference_layers(config, inputs[0])
  speeds = sides.race({'ours': ours.step} | racers, inputs, args.rounds)
  flops = sides.train_flops(models.layer_table(config.model))
  result = sides.outcome(args, speeds, flops) | sides.costs(ours, ours.train_step)
  result['hours_of_90_epochs'] = round(90 * _IMAGENET / result['images_per_s'] / 3600, 2)
  print(json.dumps(result | {'peer_details': details}))


if __name__ == '__main__':
  main()
