"""Renders the results of `python -m benchmarks.gpu` as Markdown tables, for the docs' Performance page.

  python -m benchmarks.gpu.tables DIR [--section=training]

Prints every section, or one of them. A section reads "not measured" if its stages have not succeeded or the
folder does not exist. Results of a small run on a CPU are marked as such.
"""

import argparse
from collections.abc import Callable, Iterable
import pathlib
import sys
from typing import Any

from benchmarks.gpu import plan

NOT_MEASURED = 'not measured'
PEERS = {  # PyTorch's sides by name, and the heads of their columns
  'eager': 'PyTorch eager',
  'compiled': 'compiled',
  'compiled, CUDA graphs': 'compiled, CUDA graphs',
}
_EPOCHS = 90
_IMAGENET = 1_281_167  # training images of ILSVRC-2012
SMALL = 'These figures are of a small run that tests the command; they measure nothing.'

Results = dict[str, dict[str, Any]]


def read(folder: pathlib.Path) -> Results:
  """Returns the records of all successful stages, by name."""
  found = {}
  for path in sorted(folder.glob('*.json')):
    record = plan.read(folder, path.stem)
    if record and record.get('status') == 'done' and 'result' in record:
      found[path.stem] = record
  return found


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
  """Returns a Markdown table; a cell that is None reads "not measured"."""

  def cell(value):
    return NOT_MEASURED if value is None else f'{value}'

  lines = [list(head)]
  body = [[cell(value) for value in row] for row in rows]
  if not body:
    return NOT_MEASURED
  lines += [['---'] * len(lines[0]), *body]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _of_kind(results: Results, kind: str) -> list[dict[str, Any]]:
  """Returns the results of the stages whose names start with a prefix, by dtype and batch size."""
  found = [record['result'] for name, record in results.items() if name.startswith(f'{kind}_')]
  return sorted(found, key=lambda r: (r['dtype'], r['batch']))


def _number(value: float | None, digits: int = 3) -> str | None:
  """Formats a number to some significant digits with separators of thousands; None stays None."""
  if value is None:
    return None
  return f'{value:,.0f}' if abs(value) >= 1000 else f'{float(f"{value:.{digits}g}"):g}'


def _median(spread: dict[str, float] | None) -> str | None:
  return None if spread is None else _number(spread['median'], 4)


def machine(results: Results) -> str:
  """Returns a section on the hardware, the versions and the peak rates."""
  record = results.get('ceilings')
  if not record:
    return NOT_MEASURED
  result = record['result']
  hardware = ', '.join(f'{name} {value}' for name, value in result['hardware'].items())
  rates = [
    (f'matrix product, {kind}', f'{_number(rate)} TFLOP/s')
    for kind, rate in result['matmul_tflop_per_s'].items()
  ]
  rates.append(('copy, read and written', f'{_number(result["copy_gb_per_s"])} GB/s'))
  return f'{hardware}\n\n{table(("ceiling", "measured"), rates)}'


def correctness(results: Results) -> str:
  """Returns a section on the comparisons that were made, and their largest differences."""
  rows = []
  if 'correct_layers' in results:
    result = results['correct_layers']['result']
    failed = result.get('failed', {})
    for kind, tolerance in result['tolerance'].items():
      worst = max(
        (value, name.rsplit(' | ', 1)[0].replace(' | ', ', '))
        for name, values in result['errors'].items()
        if name.endswith(f'| {kind}') and name not in failed
        for value in values[:2]
      )
      rows.append(
        (f'layers against float64, {kind}', f'{worst[0]:.2g} ({worst[1]})', f'{tolerance:g}')
      )
    if failed:
      names = '; '.join(name.replace(' | ', ', ') for name in failed)
      rows.append(('failed forms, which no network uses', names, ''))
  if 'correct_network' in results:
    result = results['correct_network']['result']
    for dtype, losses in result['losses'].items():
      apart = losses['apart']
      shown = None if apart is None else f'{apart:.2g}'
      rows.append((f'losses against PyTorch, {dtype}', shown, f'{result["tolerance"][dtype]:g}'))
    update = result['against_cpu']['update']
    rows.append(('update of a step against the CPU, float32', f'{update:.2g}', '0.003'))
  if 'reproducible' in results:
    result = results['reproducible']['result']
    for key, what in (('two_runs_equal', 'two runs'), ('resume_equal', 'a resumed run')):
      rows.append((f'{what}, bit for bit', 'equal' if result[key] else 'different', 'equal'))
  return table(('check', 'largest relative difference', 'tolerance'), rows)


def _chosen(results: Results, kind: str) -> str:
  """Returns a paragraph on the forms of PyTorch's network and where they were chosen; '' without PyTorch."""
  found = {
    f'{PEERS[name]}: {form} ({result["forms_chosen_in"][name]})': None
    for result in _of_kind(results, kind)
    for name, form in result.get('forms', {}).items()
  }
  return (
    f"Forms of PyTorch's network, and where each was chosen: {'; '.join(found)}.\n\n"
    if found
    else ''
  )


def _race(results: Results, kind: str) -> str:
  rows = []
  for result in _of_kind(results, kind):
    ratios = [ratio for ratio in result['ratio'].values() if ratio is not None]
    share = result.get('roofline_share')
    rows.append(
      (
        result['dtype'],
        result['batch'],
        _median(result['images_per_s']),
        _median(result['ms']),
        *(_median(result['peers'].get(name)) for name in PEERS),
        _number(min(ratios)) if ratios else None,
        None if share is None else f'{share:.1%}',
      )
    )
  peers = PEERS.values()
  head = ('dtype', 'batch', 'images/s', 'ms', *peers, 'ratio to the fastest peer', 'roofline')
  chosen = _chosen(results, kind)
  if kind == 'inference':
    return chosen + table(head[:-1], (row[:-1] for row in rows))
  return chosen + table(head, rows)


def training(results: Results) -> str:
  """Returns a section on training steps: images per second of each side."""
  return _race(results, 'training')


def inference(results: Results) -> str:
  """Returns a section on inference: images per second of each side."""
  return _race(results, 'inference')


def layers(results: Results) -> str:
  """Returns a section on the time of each layer, forward and backward, and its lower bound.

  conv1 and conv3 have the maps of both towers, the other layers those of one tower.
  """
  rows = [
    (
      row['layer'],
      _median(row['ms']),
      _number(row['floor_ms']),
      row['bound_by'],
      f'{row["roofline_share"]:.0%}',
    )
    for result in _of_kind(results, 'layer_table')
    for row in result['layers']
  ]
  return table(('layer', 'ms', 'floor, ms', 'bound by', 'roofline'), rows)


def gains(results: Results) -> str:
  """Returns a section on the speed-up of each form of a GPU layer over the reference layer."""
  rows = []
  for kind in ('fast_layers', 'fast_step'):
    for result in _of_kind(results, kind):
      parts = result.get('layers') or {'training step': result}
      for name, part in parts.items():
        for form, ratio in list(part['ratio'].items())[1:]:
          rows.append((name, result['dtype'], form, _median(part['ms'][form]), ratio))
  return table(('layer', 'dtype', 'form', 'ms', 'times as fast as plain'), rows)


def reading(results: Results) -> str:
  """Returns a section on images per second that the host delivers, and how long training waits for them."""
  if 'input' not in results:
    return NOT_MEASURED
  result = results['input']['result']
  rows = []
  for form, speeds in result['images_per_s'].items():
    run = result['main_py'].get(form)
    waits = None if run is None else f'{run["data_wait_frac"]:.1%}'
    trained = None if run is None else _number(run['images_per_s'])
    rows.append((form, *map(_number, speeds.values()), trained, waits))
  threads = [f'{n} threads' for n in next(iter(result['images_per_s'].values()))]
  return table(('store', *threads, 'main.py, images/s', 'waiting for data'), rows)


def memory(results: Results) -> str:
  """Returns a section on peak memory and compile time."""
  if 'memory' not in results:
    return NOT_MEASURED

  def mib(value):
    return None if value is None else f'{value / 2**20:,.0f} MiB'

  rows = [
    (
      row['batch'],
      mib(row['peak_bytes']),
      mib(row['temporary_bytes']),
      mib(row['peer_peak_bytes']),
      row['compile_s']['train_step'],
    )
    for row in results['memory']['result']['rows']
  ]
  head = ('batch', 'peak', 'temporary, of the step', 'PyTorch eager, peak', 'compiling the step, s')
  return table(head, rows)


def imagenet(results: Results) -> str:
  """Returns a section on the hours of 90 epochs of ImageNet, computed from the speeds."""

  def hours(images_per_s):
    return _number(_EPOCHS * _IMAGENET / images_per_s / 3600)

  rows = [
    (
      f'training, {result["dtype"]}, batch {result["batch"]}',
      hours(result['images_per_s']['median']),
    )
    for result in _of_kind(results, 'training')
  ]
  if 'input' in results:
    speeds = results['input']['result']['images_per_s']
    rows += [(f'reading a {form} store', hours(max(by.values()))) for form, by in speeds.items()]
  return table(('alone', 'hours for 90 epochs'), rows)


def cifar10(results: Results) -> str:
  """Returns a section on the training run of conv_local_11pct on CIFAR-10."""
  if 'cifar10' not in results:
    return NOT_MEASURED
  r = results['cifar10']['result']
  error = r['result'].get('top1_error')
  row = r['epochs'], r['seconds'], _number(r['images_per_s']), _number(error, 4)
  return table(('epochs', 'seconds', 'images/s', 'validation error, one view, %'), [row])


SECTIONS: dict[str, tuple[str, Callable[[Results], str]]] = {
  'machine': ('Machine', machine),
  'correctness': ('Correctness', correctness),
  'training': ('Training step', training),
  'inference': ('Inference', inference),
  'layers': ('Layers', layers),
  'gains': ('GPU layers', gains),
  'reading': ('Reading images', reading),
  'memory': ('Memory and compilation', memory),
  'imagenet': ('90 epochs of ImageNet, computed from the speeds', imagenet),
  'cifar10': ('Training on CIFAR-10', cifar10),
}


def render(folder: pathlib.Path, section: str = '', level: int = 3) -> str:
  """Returns the sections, or one of them without its heading, as Markdown.

  Args:
    folder: the folder of the results; it need not exist.
    section: a key of `SECTIONS`; '' for all.
    level: level of the headings.
  """
  results = read(folder)
  small = any(record['settings']['small'] for record in results.values())
  parts = [SMALL] if small else []
  for name, (title, function) in SECTIONS.items():
    if section in ('', name):
      parts += [function(results)] if section else [f'{"#" * level} {title}', function(results)]
  return '\n\n'.join(parts) + '\n'


def main() -> int:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.gpu.tables',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('folder', type=pathlib.Path)
  parser.add_argument(
    '--section', default='', choices=('', *SECTIONS), help='print this section only (default: all)'
  )
  options = parser.parse_args()
  sys.stdout.write(render(options.folder, options.section))
  return 0


if __name__ == '__main__':
  sys.exit(main())
