"""Ablations: one config, trained as it is and with each of several changes, with several seeds.

  python experiments/ablations.py --config=configs/cats_vs_dogs.py:scratch --source=folder:PATH \
      --workdir=runs/ablations --seeds=0,1,2 --output=runs/ablations/all.json \
      [--changes=no_norm,tanh] [--jobs=2] [--config.KEY=VALUE ...]

Each change is added to the variant of the config with `+`, as in `scratch+no_norm`. Without --changes, these
are the ablations of sections 3, 4 and 7 of the paper (alexnet_jax/config/overrides.py). The latest checkpoint
of each run is evaluated. The output holds every run, the mean error of each change, and the mean difference
between a change and the unchanged config with the same seed. The picture is written beside it as .png. After
Ctrl-C or SIGTERM the same command resumes. Paths are relative to the checkout.
"""

import statistics
import sys

import runs as runs_lib
import seeds

sys.path.insert(0, str(runs_lib.ROOT))  # the package need not be installed
from alexnet_jax import config as config_lib
from alexnet_jax.config.overrides import NEED_TWO_TOWERS
from alexnet_jax.errors import UserError

BASE = 'unchanged'
CHANGES = (
  'one_gpu',
  'no_communication',
  'no_norm',
  'batch_norm',
  'no_overlap',
  'tanh',
  'no_colour',
  'no_flip',
  'no_dropout',
  'no_conv2',
  'no_conv3',
  'no_conv4',
  'no_conv5',
)


def usual(config: str) -> list[str]:
  """Returns the changes that the network of a config can have."""
  name, _, variant = config.partition(':')
  path = runs_lib.ROOT / name
  try:
    towers = config_lib.load_file(f'{path if path.is_file() else name}:{variant}').model.towers
  except UserError as error:
    raise runs_lib.Refused(str(error)) from None
  return [change for change in CHANGES if towers > 1 or change not in NEED_TWO_TOWERS]


def errors_of(runs: list[dict]) -> dict[str, dict[int, float]]:
  """Returns the top-1 error of each finished run by change and seed."""
  errors = {}
  for run in runs:
    if run['eval']:
      errors.setdefault(run['variant'], {})[run['seed']] = run['eval']['top1_error']
  return errors


def standard_error(values: list[float]) -> float | None:
  """Returns the standard error of the mean of some values; None for fewer than two."""
  return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def difference(errors: dict[int, float], base: dict[int, float]) -> dict[str, float | None]:
  """Returns the mean difference of the seeds that both have, and its standard error; None where unknown."""
  apart = [errors[seed] - base[seed] for seed in errors if seed in base]
  return {
    'mean': statistics.mean(apart) if apart else None,
    'standard_error': standard_error(apart),
  }


def summarise(runs: list[dict]) -> dict:
  """Returns the errors of each change, and their differences from the unchanged config."""
  errors = errors_of(runs)
  base = errors.get(BASE, {})
  return {
    'top1_error': {
      change: seeds.spread([run for run in runs if run['variant'] == change]) for change in errors
    },
    'difference': {change: difference(errors[change], base) for change in errors if change != BASE},
  }


def draw(runs: list[dict], path) -> None:
  """Draws the runs as points, each mean with its standard error, and a line at the mean of `unchanged`."""
  import matplotlib

  matplotlib.use('agg')
  from matplotlib import pyplot

  errors = errors_of(runs)
  if not errors:
    return
  figure, axes = pyplot.subplots(figsize=(6, 0.6 + 0.3 * len(errors)), layout='constrained')
  for row, change in enumerate(errors):
    values = list(errors[change].values())
    axes.plot(values, [row] * len(values), 'o', color='0.6', markersize=4)
    mean, error = statistics.mean(values), standard_error(values)
    axes.plot(mean, row, '|', color='black', markersize=14, markeredgewidth=2)
    if error is not None:
      axes.errorbar(mean, row, xerr=error, color='black', capsize=3)
  if BASE in errors:
    axes.axvline(statistics.mean(errors[BASE].values()), color='0.8', linewidth=1, zorder=0)
  axes.set_yticks(range(len(errors)), list(errors))
  axes.invert_yaxis()
  axes.set_xlabel('error, %; points are seeds, bars are means and their standard errors')
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, dpi=120)
  pyplot.close(figure)


def main() -> int:
  """Parses the command line, starts the runs, and writes the results and the picture."""
  parser = runs_lib.parser(__doc__, 'config', 'workdir', 'seeds', 'output')
  parser.add_argument('--source', help='the images, if not those of the config')
  parser.add_argument('--changes', help='changes, separated by commas')
  options, overrides = parser.parse_known_args()
  if ':' not in options.config:
    raise runs_lib.Refused(
      f'--config={options.config}: name a variant, to which the changes are added: configs/photos.py:original'
    )
  if options.source:
    overrides = [f'--config.data.source={options.source}', *overrides]
  changes = [BASE, *(options.changes.split(',') if options.changes else usual(options.config))]
  cells = {
    (change, seed): seeds.calls(
      options.config if change == BASE else f'{options.config}+{change}',
      f'{options.workdir}/{change}',
      seed,
      overrides,
    )
    for seed in options.seeds
    for change in changes
  }

  picture = (runs_lib.ROOT / options.output).with_suffix('.png')
  return seeds.make(cells, options, summarise, draw=lambda runs: draw(runs, picture))


if __name__ == '__main__':
  runs_lib.start(main)
