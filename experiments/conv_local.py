"""Draws a trained network of section 3.3 (CIFAR-10): its training error, first kernels and confusion matrix.

  python experiments/conv_local.py --workdirs=runs/conv_local_13pct \
      --weights=weights/conv_local_13pct.safetensors --output=results/conv_local_13pct.png

--workdirs lists the runs that trained the network, one after the other. The errors of the test images are
read from the file that `--mode=eval --weights=NAME.safetensors --output=NAME.evaluation.json` wrote beside
the weights. Writes the picture, and beside it the curve as NAME.jsonl.
"""

import itertools
import json
import pathlib
import statistics
import sys

import numpy as np

import runs as runs_lib

sys.path.insert(0, str(runs_lib.ROOT))  # the package need not be installed
from alexnet_jax.report import curves, kernels
from alexnet_jax.workdir import archive

_EVERY = 4  # epochs that a point of the curve is the mean of
_ERROR = 'train/top1_error'


def curve(runs: list[list[dict]]) -> list[dict[str, float]]:
  """Returns the mean loss and training error of every `_EVERY` epochs, and of the rest of a run.

  Args:
    runs: the rows of metrics.jsonl of each run, in the order of the runs.

  Returns:
    Rows with `epoch`, counted from the first run to the end of these epochs, `loss` in nats, `error` in per
    cent of the random crops, and the learning rate `lr`.
  """
  points, before = [], 0.0
  for rows in runs:
    rows = [row for row in rows if _ERROR in row]
    for _, some in itertools.groupby(rows, lambda row: (-row['epoch'] // _EVERY, row['lr'])):
      group = list(some)
      points.append(
        {
          'epoch': round(before + group[-1]['epoch'], 3),
          'loss': round(statistics.mean(row['loss'] for row in group), 4),
          'error': round(statistics.mean(row[_ERROR] for row in group), 2),
          'lr': group[-1]['lr'],
        }
      )
    before += rows[-1]['epoch']
  return points


def draw(points: list[dict], conv1: np.ndarray, evaluation: dict, path: pathlib.Path) -> None:
  """Draws the curve with the test error, the kernels of conv1 and the confusion matrix."""
  import matplotlib

  matplotlib.use('agg')
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.8), layout='constrained')
  axes[0].plot([p['epoch'] for p in points], [p['error'] for p in points], 'k', linewidth=1)
  axes[0].plot(points[-1]['epoch'], evaluation['top1_error'], 'o', color='tab:red')
  axes[0].annotate(
    f'{evaluation["top1_error"]:.2f} % of the test images',
    (points[-1]['epoch'], evaluation['top1_error']),
    (-8, 14),
    textcoords='offset points',
    ha='right',
    color='tab:red',
  )
  axes[0].set_ylim(0, 60)
  axes[0].set_xlabel('epochs')
  axes[0].set_ylabel('training error (random crops), %')
  axes[1].imshow(kernels.picture(conv1))
  axes[1].set_title('kernels of conv1')
  axes[1].axis('off')
  names = [row['label'] for row in evaluation['classes']]
  counts = np.array(evaluation['confusion'])
  axes[2].imshow(counts / counts.sum(1, keepdims=True), cmap='Greys', vmax=0.2)
  axes[2].set_xticks(range(len(names)), names, rotation=90, fontsize=8)
  axes[2].set_yticks(range(len(names)), names, fontsize=8)
  for (row, column), count in np.ndenumerate(counts):
    colour = 'white' if row == column else 'black'
    axes[2].text(column, row, count, ha='center', va='center', fontsize=6, color=colour)
  axes[2].set_xlabel('predicted class')
  axes[2].set_ylabel('class')
  figure.savefig(path, dpi=120)
  pyplot.close(figure)


def main() -> int:
  """Parses the command line and writes the picture and the curve."""
  parser = runs_lib.parser(__doc__, 'workdirs', 'weights', 'output', jobs=False)
  options = parser.parse_args()
  workdirs = [runs_lib.ROOT / workdir for workdir in options.workdirs.split(',')]
  weights, output = runs_lib.ROOT / options.weights, runs_lib.ROOT / options.output
  figures = weights.with_suffix('.evaluation.json')
  for path in (weights, figures, *(workdir / 'metrics.jsonl' for workdir in workdirs)):
    if not path.exists():
      raise runs_lib.Refused(f'{path} does not exist: name runs and evaluated weights')
  evaluation = json.loads(figures.read_text())
  runs = [curves.read(workdir / 'metrics.jsonl') for workdir in workdirs]
  for workdir, rows in zip(workdirs, runs, strict=True):
    if not any(_ERROR in row for row in rows):
      raise runs_lib.Refused(f'{workdir} has no training errors: name runs that were trained')
  points = curve(runs)
  output.parent.mkdir(parents=True, exist_ok=True)
  output.with_suffix('.jsonl').write_text(''.join(json.dumps(point) + '\n' for point in points))
  conv1 = archive.read_tensors(str(weights))['params/conv1/kernel'][0]
  draw(points, conv1, evaluation, output)
  return 0


if __name__ == '__main__':
  runs_lib.start(main)
