"""Transfer to cats and dogs: training from scratch, fine-tuning and fixed features, beside baselines.

  python experiments/cats_dogs.py --source=folder:PATH --init_from=runs/quickstart --workdir=runs/cats_dogs \
      --seeds=0,1,2 --output=runs/cats_dogs/all.json [--jobs=2] [--config.KEY=VALUE ...]

Trains configs/cats_vs_dogs.py:scratch, :fine_tune and :features with every seed and evaluates the
latest checkpoint of each on ten views. `--init_from` names the run on other images whose layers are
copied; without it only `scratch` is trained. After an interruption the same command resumes. Paths
are relative to the checkout.
"""

import runs as runs_lib
import seeds


def summarise(runs: list[dict]) -> dict:
  """Returns the errors of each variant and of two baselines that ignore shape."""
  answer = next(
    (run['eval'] for run in runs if run['eval']), None
  )  # any run: the images are the same
  baselines = answer and {
    'majority': answer['majority_error'],
    'ridge on pixel means': answer.get('baseline_error'),
  }
  variants = dict.fromkeys(run['variant'] for run in runs)

  def of(variant):
    return seeds.spread([run for run in runs if run['variant'] == variant])

  return {
    'baselines': baselines,
    'top1_error': {variant: of(variant) for variant in variants},
  }


def main() -> int:
  """Parses the command line, starts the runs and writes the results."""
  parser = runs_lib.parser(__doc__, 'source', 'workdir', 'seeds', 'output')
  parser.add_argument('--init_from', default='')
  options, overrides = parser.parse_known_args()
  data = f'--config.data.source={options.source}'
  start = f'--config.init_from={options.init_from}'
  ways = {'scratch': [data], 'fine_tune': [data, start], 'features': [data, start]}
  cells = {
    (variant, seed): seeds.calls(
      f'configs/cats_vs_dogs.py:{variant}',
      f'{options.workdir}/{variant}',
      seed,
      [*ways[variant], *overrides],
    )
    for variant in (ways if options.init_from else ('scratch',))
    for seed in options.seeds
  }
  return seeds.make(cells, options, summarise)


if __name__ == '__main__':
  runs_lib.start(main)
