"""Writes the pages that are made from other files: copies, the tables of results, and the API pages.

The pages go to docs/generated, which is not under version control.
"""

import importlib
import json
import pathlib
import pkgutil
import re
import shutil

from benchmarks import scale
from benchmarks.gpu import tables

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Markdown files of the repository's root that are pages of the site, too.
COPIED = ('RESULTS.md', 'CHANGELOG.md', 'CONTRIBUTING.md')
_RELATIVE_LINK = re.compile(r'(\]\()(?!https?:|#|mailto:)([^)]+\))')


def write_pages(folder: pathlib.Path) -> None:
  """Writes every generated page into `folder`, which is emptied first."""
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  for name in COPIED:
    if (ROOT / name).is_file():
      text = _RELATIVE_LINK.sub(r'\1../../\2', (ROOT / name).read_text())
      text = re.sub(r'\.\./\.\./(?:notebooks/)?([\w-]+\.(?:md|ipynb))', r'\1', text)
      (folder / name).write_text(text)
  for path in sorted((ROOT / 'notebooks').glob('*.ipynb')):
    (folder / path.name).write_text(_notebook_page(path))
  (folder / 'scale_table.md').write_text(scale.render(ROOT / 'results' / 'scale.json'))
  (folder / 'gpu_tables.md').write_text(tables.render(ROOT / 'results' / 'gpu'))
  for package, modules in api_modules().items():
    (folder / f'{package}.md').write_text(_api_page(package, modules))


def api_modules() -> dict[str, list[str]]:
  """The modules of each package, `{'alexnet_jax.models': ['alexnet_jax.models', ...], ...}`.

  Modules that lie in alexnet_jax itself are listed under `alexnet_jax`.
  """
  import alexnet_jax

  found = {'alexnet_jax': ['alexnet_jax']}
  for module in pkgutil.walk_packages(alexnet_jax.__path__, 'alexnet_jax.'):
    parts = module.name.split('.')
    if any(part.startswith('_') for part in parts):
      continue
    package = '.'.join(parts[:2]) if len(parts) > 2 or module.ispkg else 'alexnet_jax'
    found.setdefault(package, []).append(module.name)
  return found


def _api_page(package: str, modules: list[str]) -> str:
  """A page with the documentation of each module of a package, from its docstrings."""
  lines = [f'# {package}', '']
  for name in modules:
    if name != package:
      lines += [f'## {name}', '']
    lines += ['```{eval-rst}', f'.. automodule:: {name}']
    # A name that a package re-exports is documented in the module that defines it.
    names = [] if name != 'alexnet_jax' else importlib.import_module(name).__all__
    lines += ['   :no-members:'] if names else []
    lines += ['```', '']
  return '\n'.join(lines)


def _notebook_page(path: pathlib.Path) -> str:
  """A notebook without its badge cell, with links that lead to the pages beside it."""
  notebook = json.loads(path.read_text())
  cells = [c for c in notebook['cells'] if 'colab-badge' not in ''.join(c['source'])]
  for cell in cells:
    if cell['cell_type'] == 'markdown':
      cell['source'] = ''.join(cell['source']).replace('](../RESULTS.md', '](RESULTS.md')
  return json.dumps(notebook | {'cells': cells})
