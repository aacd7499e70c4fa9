"""Makes the notebooks, NAME.ipynb, of their texts, NAME.py, and executes them for the outputs they show.

  python notebooks/build.py                                             all of them
  python notebooks/build.py 02_relu_or_tanh EPOCHS=3 SOURCE="'folder:data/cifar10'"

The texts are Python files in jupytext's percent format; in front of each comes header.py. NAME=VALUE sets
what the cell tagged `parameters` sets, in a cell of its own after it: so one sees what the outputs are of.
"""

import pathlib
import re
import sys

import jupytext
from nbclient import NotebookClient
import nbformat

# Where the notebooks install the package from and open in Colab: the one place to change (then run this).
REPOSITORY = 'OWNER/alexnet_jax'  # on GitHub
BRANCH = 'main'

FOLDER = pathlib.Path(__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob('[0-9]*.py'))
_SET = '# Set for the outputs below, by notebooks/build.py.'


def make(name: str, settings: dict[str, str] | None = None) -> nbformat.NotebookNode:
  """The notebook of a text, without outputs.

  Args:
    name: one of `NAMES`.
    settings: names and values, as Python writes them, that its cell of parameters is to set otherwise.

  Raises:
    ValueError: the cell of parameters sets no such name.
  """
  address = {'REPOSITORY': REPOSITORY, 'BRANCH': BRANCH, 'NAME': name}
  header = re.sub(r'{(REPOSITORY|BRANCH|NAME)}', lambda m: address[m[1]], _text('header'))
  notebook, own = (jupytext.reads(text, 'py:percent') for text in (header, _text(name)))
  cells = notebook.cells + own.cells
  if settings:
    places = [i for i, cell in enumerate(cells) if 'parameters' in cell.metadata.get('tags', ())]
    known = set(re.findall(r'^(\w+) =', cells[places[0]].source, re.MULTILINE))
    if set(settings) - known:
      raise ValueError(f'{name} has no {set(settings) - known}: choose among {known}')
    lines = [_SET, *(f'{key} = {value}' for key, value in settings.items())]
    cells.insert(places[0] + 1, nbformat.v4.new_code_cell('\n'.join(lines)))
  for i, cell in enumerate(cells):
    cell['id'] = f'cell-{i}'  # the same ones each time, so that two versions compare
  kernel = {'display_name': 'Python 3', 'language': 'python', 'name': 'python3'}
  metadata = {'kernelspec': kernel, 'language_info': {'name': 'python'}, 'accelerator': 'GPU'}
  return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def execute(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
  """Runs all cells in a fresh kernel and fills in their outputs.

  Raises:
    nbclient.exceptions.CellExecutionError: a cell failed.
  """
  place = {'metadata': {'path': str(FOLDER)}}
  NotebookClient(notebook, timeout=3600, coalesce_streams=True, resources=place).execute()
  for cell in notebook.cells:
    cell.metadata.pop('execution', None)  # times, which change with every run
  return notebook


def _text(name: str) -> str:
  return (FOLDER / f'{name}.py').read_text()


def main(arguments: list[str]) -> None:
  """Makes the notebooks that are named, or all."""
  settings = dict(argument.split('=', 1) for argument in arguments if '=' in argument)
  for name in [argument for argument in arguments if '=' not in argument] or NAMES:
    nbformat.write(execute(make(name, settings)), FOLDER / f'{name}.ipynb')
    print(FOLDER / f'{name}.ipynb')


if __name__ == '__main__':
  main(sys.argv[1:])
