"""Table 2 of the paper: one CNN, an average of five, one CNN* pre-trained on more images, and all seven.

  python experiments/table2.py --source=store:stores/imagenet --fall_2009=store:stores/fall2009 \
      --fall_2011=store:stores/fall2011 --workdir=runs/table2 --output=runs/table2/table2.json

Trains configs/ilsvrc2012.py:cnn with seeds 0 to 4. Starting from the first of these networks it
trains the chain of configs/cnn_star.py (:2009, :2011, :2012) with seeds 0 and 1. Every network is
evaluated on ten views of the validation images, and their predictions are averaged. Without the
releases of Fall 2009 and 2011 only the first two rows are computed. `--nets` and `--chains` change
the numbers of networks. After Ctrl-C or SIGTERM the same command resumes. `--jobs=2` starts two
runs at a time, and `--config.KEY=VALUE` goes to every run. Paths are relative to the checkout.
"""

import argparse

import runs as runs_lib
import seeds
from seeds import Cell

NET, STAR = 'CNN', 'CNN*'
# By the numbers of averaged CNNs and CNN*s: the errors on the validation images in per cent, top-1 and top-5.
PAPER = {(1, 0): (40.7, 18.2), (5, 0): (38.1, 16.4), (0, 1): (39.0, 16.6), (5, 2): (36.7, 15.4)}
CHAIN = ('cnn_star_2009', 'cnn_star_2011', 'cnn_star_2012')
FOLDERS = {
  NET: 'cnn',
  STAR: CHAIN[-1],
}  # in the workdir, of a network or of the last run of its chain


def networks(options: argparse.Namespace) -> list[Cell]:
  """Returns the networks to train, then the chains; no chains if a release is missing."""
  chains = options.chains if options.fall_2009 else 0
  return [*((NET, seed) for seed in range(options.nets)), *((STAR, seed) for seed in range(chains))]


def rows(options: argparse.Namespace) -> dict[str, list[Cell]]:
  """Returns the networks that are averaged in each row of the table."""
  cells = networks(options)
  nets, stars = ([cell for cell in cells if cell[0] == name] for name in (NET, STAR))
  found = {f'1 {NET}': nets[:1], f'{len(nets)} CNNs': nets[1:] and nets}
  found |= {f'1 {STAR}': stars[:1], f'{len(cells)} CNNs*': stars and cells}
  return {name: members for name, members in found.items() if members}


def workdir_of(options: argparse.Namespace, cell: Cell) -> str:
  """Returns the workdir of a network; for a chain that of its last run."""
  name, seed = cell
  return f'{options.workdir}/{FOLDERS[name]}/seed{seed}'


def chain(options: argparse.Namespace, seed: int, overrides: list[str]) -> list[list[str]]:
  """Returns the arguments of main.py that train a CNN*, each run from the one before, and evaluate it."""
  sources = (options.fall_2009, options.fall_2011, options.source)
  start, made = workdir_of(options, (NET, 0)), []
  for folder, source in zip(CHAIN, sources, strict=True):
    config = f'configs/cnn_star.py:{folder.removeprefix("cnn_star_")}'
    data = [f'--config.data.source={source}', f'--config.init_from={start}', *overrides]
    train, evaluate = seeds.calls(config, f'{options.workdir}/{folder}', seed, data)
    made.append(train)
    start = f'{options.workdir}/{folder}/seed{seed}'
  return [*made, evaluate]


def calls(options: argparse.Namespace, overrides: list[str]) -> dict[Cell, list[list[str]]]:
  """Returns the arguments of main.py for every network and every average."""
  data = [f'--config.data.source={options.source}', *overrides]
  folder = f'{options.workdir}/{FOLDERS[NET]}'
  cells = {
    (name, seed): seeds.calls('configs/ilsvrc2012.py:cnn', folder, seed, data)
    if name == NET
    else chain(options, seed, overrides)
    for name, seed in networks(options)
  }
  for name, members in rows(options).items():
    if len(members) > 1:
      workdirs = ','.join(workdir_of(options, cell) for cell in members)
      cells[name, None] = [['--mode=eval', '--checkpoint=latest', f'--checkpoints={workdirs}']]
  return cells


def needed(options: argparse.Namespace, cell: Cell) -> list[Cell]:
  """Returns what must be finished first: for a chain the first network, for an average its members."""
  if cell in networks(options):
    return [(NET, 0)] if cell[0] == STAR else []
  return rows(options)[cell[0]]


def summarise(runs: list[dict], options: argparse.Namespace) -> dict:
  """Returns the table: our errors (None if not yet known) and the paper's (None for other networks)."""
  found = {(run['variant'], run['seed']): run['eval'] for run in runs}

  def errors(top1, top5):
    return {'top1_error': top1, 'top5_error': top5}

  table = {}
  for name, members in rows(options).items():
    ours = found.get((name, None) if len(members) > 1 else members[0])
    kinds = [kind for kind, _ in members]
    paper = PAPER.get((kinds.count(NET), kinds.count(STAR)))
    table[name] = {
      'paper': paper and errors(*paper),
      'ours': ours and errors(ours['top1_error'], ours['top5_error']),
    }
  return {'table': table}


def main() -> int:
  """Parses the command line, starts the runs and writes the results."""
  parser = runs_lib.parser(__doc__, 'source', 'workdir', 'output')
  parser.add_argument('--fall_2009', default='', help='the 10,184 classes')
  parser.add_argument('--fall_2011', default='', help='the 21,843 classes')
  parser.add_argument('--nets', type=runs_lib.number, default=5)
  parser.add_argument('--chains', type=runs_lib.number, default=2)
  options, overrides = parser.parse_known_args()
  if bool(options.fall_2009) != bool(options.fall_2011):
    raise runs_lib.Refused(
      'a CNN* requires both releases: name --fall_2009 and --fall_2011, or neither'
    )
  return seeds.make(
    calls(options, overrides),
    options,
    lambda runs: summarise(runs, options),
    lambda cell: needed(options, cell),
  )


if __name__ == '__main__':
  runs_lib.start(main)
