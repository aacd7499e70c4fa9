"""Table 2 of the paper: one CNN, five averaged, one CNN* trained on more images first, and all seven.

  python launch/table2.py --source=store:stores/imagenet --fall_2009=store:stores/fall2009 \
      --fall_2011=store:stores/fall2011 --workdir=runs/table2 --output=runs/table2/table2.json

Trains configs/ilsvrc2012.py:cnn with seeds 0 to 4; from the first of these, twice, the chain of
configs/cnn_star.py (:2009, :2011, :2012) with seeds 0 and 1; evaluates each on ten views of the validation
images, and averages. Without the releases of Fall 2009 and 2011 the first two rows alone are made. `--nets`
and `--chains` change the numbers of networks. Stopped, by Ctrl-C or SIGTERM, the same command goes on;
`--jobs=2` makes two runs at a time; `--config.KEY=VALUE` goes to every run. Paths: relative to the checkout.
"""

import argparse

import runs as runs_lib
import seeds
from seeds import Cell

NET, STAR = 'CNN', 'CNN*'
PAPER = {  # top-1 and top-5 errors of the validation images, in per cent
  '1 CNN': (40.7, 18.2),
  '5 CNNs': (38.1, 16.4),
  '1 CNN*': (39.0, 16.6),
  '7 CNNs*': (36.7, 15.4),
}


def networks(options: argparse.Namespace) -> list[Cell]:
  """What is trained: networks, then chains, none where a release is missing."""
  chains = options.chains if options.fall_2009 else 0
  return [*((NET, seed) for seed in range(options.nets)), *((STAR, seed) for seed in range(chains))]


def rows(options: argparse.Namespace) -> dict[str, list[Cell]]:
  """The networks that are averaged in each row of the table."""
  cells = networks(options)
  nets = [cell for cell in cells if cell[0] == NET]
  found = {'1 CNN': nets[:1], '5 CNNs': nets}
  return found | ({'1 CNN*': [(STAR, 0)], '7 CNNs*': cells} if len(cells) > len(nets) else {})


def place(options: argparse.Namespace, cell: Cell) -> str:
  """The workdir of a network; of a chain, that of its last run."""
  name, seed = cell
  return f'{options.workdir}/{"cnn" if name == NET else "cnn_star_2012"}/seed{seed}'


def chain(options: argparse.Namespace, seed: int, overrides: list[str]) -> list[list[str]]:
  """The arguments of main.py to train a CNN*, each run from the one before, and to evaluate it."""
  sources = {'2009': options.fall_2009, '2011': options.fall_2011, '2012': options.source}
  start, made = place(options, (NET, 0)), []
  for variant, source in sources.items():
    data = [f'--config.data.source={source}', f'--config.init_from={start}', *overrides]
    workdir = f'{options.workdir}/cnn_star_{variant}'
    train, evaluate = seeds.calls(f'configs/cnn_star.py:{variant}', workdir, seed, data)
    made.append(train)
    start = f'{workdir}/seed{seed}'
  return [*made, evaluate]


def calls(options: argparse.Namespace, overrides: list[str]) -> dict[Cell, list[list[str]]]:
  """The arguments of main.py for every network and every average."""
  data = [f'--config.data.source={options.source}', *overrides]
  net = lambda seed: seeds.calls('configs/ilsvrc2012.py:cnn', f'{options.workdir}/cnn', seed, data)
  cells = {
    (name, seed): net(seed) if name == NET else chain(options, seed, overrides)
    for name, seed in networks(options)
  }
  for name, members in rows(options).items():
    if len(members) > 1:
      places = ','.join(place(options, cell) for cell in members)
      cells[name, 0] = [['--mode=eval', '--checkpoint=latest', f'--checkpoints={places}']]
  return cells


def summarise(runs: list[dict], options: argparse.Namespace) -> dict:
  """The table: of every row the paper's errors and ours, None where it has not been made."""
  found = {(run['variant'], run['seed']): run['eval'] for run in runs}
  table = {}
  for name, members in rows(options).items():
    ours = found.get((name, 0) if len(members) > 1 else members[0]) or {}
    top1, top5 = PAPER[name]
    table[name] = {
      'networks': len(members),
      'paper': {'top1_error': top1, 'top5_error': top5},
      'ours': {key: ours.get(key) for key in ('top1_error', 'top5_error')},
    }
  return {'table': table}


def main() -> int:
  """Reads the command line, runs, and writes the file."""
  parser = runs_lib.parser(__doc__, 'source', 'workdir', 'output')
  parser.add_argument('--fall_2009', default='', help='the 10,184 classes')
  parser.add_argument('--fall_2011', default='', help='the 21,843 classes')
  parser.add_argument('--nets', type=int, default=5)
  parser.add_argument('--chains', type=int, default=2)
  options, overrides = parser.parse_known_args()
  if bool(options.fall_2009) != bool(options.fall_2011):
    raise runs_lib.Refused(
      'a CNN* takes both releases: name --fall_2009 and --fall_2011, or neither'
    )
  if options.nets < 1 or options.chains < 1:
    raise runs_lib.Refused(
      '--nets and --chains are 1 or more; without --fall_2009 no chain is made'
    )
  after = lambda cell: {NET: [], STAR: [(NET, 0)]}.get(cell[0], rows(options).get(cell[0], []))
  return seeds.make(
    calls(options, overrides), options, lambda runs: summarise(runs, options), after
  )


if __name__ == '__main__':
  runs_lib.start(main)
