"""Makes the notebooks NAME.ipynb from their texts NAME.py and executes them.

  python notebooks/build.py                                             executes all notebooks
  python notebooks/build.py 02_relu_or_tanh EPOCHS=3 SOURCE="'folder:data/cifar10'"
  python notebooks/build.py --text-only                                 updates texts, keeps outputs

The texts are Python files in jupytext's percent format; header.py is prepended to each. NAME=VALUE overrides
a value of the cell tagged `parameters`, in a visible cell of its own after it. --text-only copies changed
Markdown, comments and the header into the notebooks without executing them; it refuses where other code has
changed.
"""

import ast
import pathlib
import re
import sys

import jupytext
from nbclient import NotebookClient
import nbformat

# The repository that the notebooks install the package from; run this file after a change.
REPOSITORY = 'OWNER/alexnet_jax'  # on GitHub
BRANCH = 'main'

FOLDER = pathlib.Path(__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob('[0-9]*.py'))
_SET = '# Set for the outputs below, by notebooks/build.py.'


def make(name: str, settings: dict[str, str] | None = None) -> nbformat.NotebookNode:
  """Returns the notebook of a text, without outputs.

  Args:
    name: one of `NAMES`.
    settings: names and values, in Python syntax, that override the cell of parameters.

  Raises:
    ValueError: the cell of parameters does not set such a name.
  """
  address = {'REPOSITORY': REPOSITORY, 'BRANCH': BRANCH, 'NAME': name}
  texts = (
    re.sub(r'{(REPOSITORY|BRANCH|NAME)}', lambda m: address[m[1]], _text(stem))
    for stem in ('header', name)
  )
  notebook, own = (jupytext.reads(text, 'py:percent') for text in texts)
  cells = notebook.cells + own.cells
  if settings:
    places = [i for i, cell in enumerate(cells) if 'parameters' in cell.metadata.get('tags', ())]
    known = set(re.findall(r'^(\w+) =', cells[places[0]].source, re.MULTILINE))
    if set(settings) - known:
      raise ValueError(f'{name} has no {set(settings) - known}: choose among {known}')
    lines = [_SET, *(f'{key} = {value}' for key, value in settings.items())]
    cells.insert(places[0] + 1, nbformat.v4.new_code_cell('\n'.join(lines)))
  for i, cell in enumerate(cells):
    cell['id'] = f'cell-{i}'  # the same in every build, so that versions can be compared
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
    cell.metadata.pop('execution', None)  # execution times, which differ in every run
  return notebook


def update_text(name: str) -> None:
  """Copies the text of a notebook into its file and keeps the outputs.

  Raises:
    ValueError: the code of a cell has changed, so that the outputs may no longer belong to it.
  """
  path = FOLDER / f'{name}.ipynb'
  notebook = nbformat.read(path, as_version=4)
  cells = [cell for cell in notebook.cells if not cell.source.startswith(_SET)]
  made = make(name).cells
  kinds = [[cell.cell_type for cell in each] for each in (cells, made)]
  if kinds[0] != kinds[1]:
    raise ValueError(f'{name}: the number or the order of its cells has changed; execute it again')
  header = next(i for i, cell in enumerate(made) if cell.cell_type == 'code')
  for i, (old, new) in enumerate(zip(cells, made, strict=True)):
    if old.cell_type == 'code' and _code(old.source) != _code(new.source):
      if i != header:
        raise ValueError(f'{name}: code has changed; execute it again: {new.source[:60]!r}')
      old.outputs = []  # in a checkout, the header prints nothing
    old.source = new.source
  nbformat.write(notebook, path)


def _code(source: str) -> str:
  """The code of a cell without its imports and comments, which do not change the outputs."""
  tree = ast.parse(source)
  tree.body = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
  return ast.dump(tree)


def _text(name: str) -> str:
  return (FOLDER / f'{name}.py').read_text()


def main(arguments: list[str]) -> None:
  """Executes the notebooks that are named, or all; with --text-only updates their texts."""
  if '--text-only' in arguments:
    for name in [name for name in arguments if name != '--text-only'] or NAMES:
      update_text(name)
    return
  settings = dict(argument.split('=', 1) for argument in arguments if '=' in argument)
  for name in [argument for argument in arguments if '=' not in argument] or NAMES:
    nbformat.write(execute(make(name, settings)), FOLDER / f'{name}.ipynb')
    print(FOLDER / f'{name}.ipynb')


if __name__ == '__main__':
  main(sys.argv[1:])
