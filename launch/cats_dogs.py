"""Transfer: cats and dogs from scratch, fine-tuned, and on fixed features, beside plain baselines.

  python launch/cats_dogs.py --source=folder:PATH --init_from=runs/quickstart --workdir=runs/cats_dogs \
      --seeds=0,1,2 --output=results/cats_dogs.json [--config.KEY=VALUE ...]

Trains configs/cats_vs_dogs.py:scratch, :fine_tune and :features with every seed and evaluates each last
checkpoint on ten views. `--init_from` is the run, on other images, whose layers are taken; without it only
`scratch` is trained. Run again after a stop, it goes on where it was.
"""

import argparse

import seeds


def main() -> None:
  """Reads the command line, runs, and writes the file after every run."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  for name in ('source', 'workdir', 'seeds', 'output'):
    parser.add_argument(f'--{name}', required=True)
  parser.add_argument('--init_from', default='')
  options, overrides = parser.parse_known_args()
  data = f'--config.data.source={options.source}'
  start = f'--config.init_from={options.init_from}'
  ways = {'scratch': [data], 'fine_tune': [data, start], 'features': [data, start]}
  result: dict = seeds.circumstances() | {'baselines': {}, 'variants': {}}
  for variant in ways if options.init_from else ('scratch',):
    runs = []
    for seed in options.seeds.split(','):
      config, workdir = f'configs/cats_vs_dogs.py:{variant}', f'{options.workdir}/{variant}'
      runs.append(seeds.one_seed(config, workdir, int(seed), [*ways[variant], *overrides]))
      result['variants'][variant] = {'top1_error': seeds.spread(runs), 'runs': runs}
      found = runs[-1]['eval']
      result['baselines'] = {
        'majority': found['majority_error'],
        'ridge on pixel means': found['baseline_error'],
      }
      seeds.write(options.output, result)


if __name__ == '__main__':
  main()
