"""Measures the cost of the layer statistics: training steps and diagnoses, measured alternately.

  python -m benchmarks.diagnostics [--batch=128] [--recipe=paper] [--dtype=float32] [--mesh=1,1] [--rounds=5]

Prints one line of JSON with the median seconds of a training step and of a diagnosis. `percent` is how much
longer a run takes with a diagnosis every `--every` steps (default: the recipe's `train.diagnose_every`).
"""

import json
import statistics
import sys
import time

import jax

from alexnet_jax.config import recipes
from alexnet_jax.distributed import sharding
from alexnet_jax.steps.layer_stats import make_diagnostics_step
from benchmarks import machine, sides


def main() -> None:
  parser = sides.flags(__doc__)
  parser.add_argument('--every', type=int, default=recipes.get('paper').train.diagnose_every)
  args = parser.parse_args()
  sides.prepare(args)
  config = sides.config_of(args, args.batch)
  inputs, ours = sides.batches(config), sides.Ours(config)
  ours.compile_step(inputs[0])
  diagnostics = make_diagnostics_step(config, ours.mesh)

  def diagnose(batch: sides.Batch) -> None:
    batch = sharding.shard_batch(ours.mesh, batch)
    jax.device_get(diagnostics(ours.state, batch, ours.colour, ours.statistics))

  works = {'step': ours.step, 'diagnosis': diagnose}
  seconds: dict[str, list[float]] = {name: [] for name in works}
  for i in range(args.rounds + 1):  # the first round is a warm-up
    for name, work in works.items():
      began = time.perf_counter()
      work(inputs[i % len(inputs)])
      seconds[name].append(time.perf_counter() - began)
    print(
      f'round {i} of {args.rounds}',
      {n: round(s[-1], 2) for n, s in seconds.items()},
      file=sys.stderr,
    )
  step, diagnosis = (statistics.median(found[1:]) for found in seconds.values())
  ratio = statistics.median(
    d / s for s, d in zip(seconds['step'][1:], seconds['diagnosis'][1:], strict=True)
  )
  result = {
    'recipe': args.recipe,
    'batch': args.batch,
    'rounds': args.rounds,
    'step_s': round(step, 3),
    'diagnosis_s': round(diagnosis, 3),
    'ratio': round(ratio, 3),
    'every': args.every,
    'percent': round(100 * ratio / args.every, 3),
    'first_diagnosis_s': round(seconds['diagnosis'][0], 1),
    'hardware': machine.hardware(),
  }
  print(json.dumps(result))


if __name__ == '__main__':
  main()
