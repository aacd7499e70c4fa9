"""How fast a training step is, beside PyTorch and beside what the machine can do.

  python -m benchmarks.train_step [--batch=128] [--recipe=paper] [--dtype=float32] [--mesh=1,1] [--rounds=5]

Both sides train the same network from the same weights with the same update, on fresh uint8 images each
step, without augmentation, and wait for the loss of each step. First they train three steps without
dropout, and their losses must agree within 1e-3. Then they take turns. PyTorch (pip install torch) runs in
the fastest of its forms, found on small batches. On a CPU it runs twice: as it comes, in a process of its
own, and in this one, where freed memory is kept for it too and comes in huge pages
(`alexnet_jax.utils.memory`). On a GPU it runs eager and compiled.

One line of JSON: `images_per_s` (median) of this project, its `ratio` to each other side (median of the
rounds' ratios; on a CPU the one to quote is `fair`, to PyTorch with the memory setting that we use),
`roofline_share` (of the FLOP a second of a large matrix product, the better of both libraries'; Winograd's
convolutions do less arithmetic than it counts), `spread` of each side, `compile_s`, `temporary_bytes` of the
compiled step and what they are measured by, `peak_bytes`, and the peer's speed at other batches.
"""

import json
import os

from alexnet_jax import models
from benchmarks import sides

_TRIAL = 32  # images a batch, to find the peer's fastest form
_PEER_BATCHES = (32, 64)  # tried beside --batch: the peer's best is reported too
_TOLERANCE = 1e-3
_IMAGENET = 1_281_167  # training images of ILSVRC-2012


def check_losses(args, device: str, form) -> list[list[float]]:
  """Three steps of both sides without dropout, from the same weights; exits where they differ."""
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
  """PyTorch's side: named functions that take a step, and what is to be said of them."""
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
  flags.add_argument('--plain', action='store_true', help='race the plain layers too')
  args = flags.parse_args()
  sides.prepare(args)
  config = sides.config_of(args, args.batch)
  inputs = sides.batches(config)
  ours = sides.Ours(config)
  racers, told = peers_of(args, config, ours.params()) if sides.has_peer() else ({}, {})
  ours.compile_step(inputs[0])
  if args.plain:
    racers['plain layers'] = sides.with_plain_layers(config, inputs[0])
  speeds = sides.race({'ours': ours.step} | racers, inputs, args.rounds)
  flops = sides.train_flops(models.layer_table(config.model))
  result = sides.outcome(args, speeds, flops) | sides.costs(ours, ours.train_step)
  result['hours_of_90_epochs'] = round(90 * _IMAGENET / result['images_per_s'] / 3600, 2)
  print(json.dumps(result | {'peer_details': told}))


if __name__ == '__main__':
  main()
