"""Sphinx configuration of the documentation site; `bash launch/docs.sh` builds it."""

import importlib.util
import pathlib
import re
import sys

DOCS = pathlib.Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS)]

import generate  # noqa: E402

from alexnet_jax import __version__  # noqa: E402

generate.write_pages(DOCS / 'generated')

project = 'alexnet_jax'
author = 'The alexnet_jax authors'
version = release = __version__

extensions = [
  'myst_nb',  # Markdown pages and notebooks; it loads myst_parser
  'sphinx.ext.autodoc',
  'sphinx.ext.napoleon',
  'sphinx.ext.viewcode',
]
# The tables for GPUs are a part of performance.md.
exclude_patterns = ['_build', 'jupyter_execute', 'generated/gpu_tables.md']
myst_heading_anchors = 3
nb_execution_mode = 'off'  # the notebooks are stored as executed

autodoc_default_options = {'members': True, 'member-order': 'bysource', 'show-inheritance': True}
autodoc_typehints = 'signature'
autodoc_preserve_defaults = True
# The API pages are built whether or not the optional extras are installed.
autodoc_mock_imports = [
  name for name in ('starlette', 'uvicorn', 'torch') if importlib.util.find_spec(name) is None
]
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = 'furo'
html_title = f'alexnet_jax {release}'

# A link from docs/ to a page that write_pages copies, such as ../RESULTS.md; also one in a table of contents.
_ABOVE = re.compile(r'(^|\]\()\.\./(?:notebooks/)?(?=[\w-]+(?:\.md|\.ipynb|$))', re.M)
_CODE = re.compile(r'(?<!`)`(?!`)([^`]+)`(?!`)(\w?)')


def _code_as_literal(app, what, name, obj, options, lines):
  """Turns `code`, which docstrings write as Markdown does, into a literal of reStructuredText."""
  text = _CODE.sub(
    lambda found: '``' + ' '.join(found[1].split()) + '``' + (found[2] and '\\ ' + found[2]),
    '\n'.join(lines),
  )
  lines[:] = text.split('\n')


def _link_to_copies(app, docname, source):
  """Turns links that leave docs/, which work on GitHub, into links to the copies in docs/generated."""
  if not docname.startswith('generated/'):
    source[0] = _ABOVE.sub(r'\1generated/', source[0])


def setup(app):
  """Registers both conversions, that of docstrings ahead of napoleon's, whose priority is 500."""
  app.connect('source-read', _link_to_copies)
  app.connect('autodoc-process-docstring', _code_as_literal, priority=400)
