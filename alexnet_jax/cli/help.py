"""What each key of a config means, read from the comments beside the keys in recipes.py.

There it is said once; `--helpfull` shows it, and `python -m alexnet_jax.cli.help` prints docs/CONFIG.md.
"""

import ast
from collections.abc import Iterator
import inspect
import io
import textwrap
import tokenize

from ml_collections import ConfigDict, FrozenConfigDict

from alexnet_jax import config as config_lib
from alexnet_jax.config import recipes
from alexnet_jax.models import spec

_HEADER = """# Every key of a config

Set one with `--config.KEY=VALUE`. The values are those of recipe `paper`; other recipes and configs
change some of them: `python main.py --config=CONFIG --helpfull` shows its own. P = the 2012 paper, O = the
original 2012 code, C2 = cuda-convnet2, K = Caffe, T = torchvision. Written by
`python -m alexnet_jax.cli.help > docs/CONFIG.md` from the comments in
[alexnet_jax/config/recipes.py](../alexnet_jax/config/recipes.py).

| key | value | meaning |
|---|---|---|"""


class _Comments:
  """The comments of a source: those on lines of their own, and those after code."""

  def __init__(self, source: str):
    self._alone: dict[int, str] = {}
    self._beside: dict[int, str] = {}
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
      if token.type == tokenize.COMMENT:
        row, column = token.start
        kind = self._beside if lines[row - 1][:column].strip() else self._alone
        kind[row] = token.string.lstrip('# ')

  def at(self, row: int) -> str:
    """The comment of the code in a row: the lines above it, and what stands behind it."""
    first = row
    while first - 1 in self._alone:
      first -= 1
    above = [self._alone[i] for i in range(first, row)]
    return ' '.join([*above, *([self._beside[row]] if row in self._beside else [])])


def _dict_of(node: ast.expr, functions: dict[str, ast.FunctionDef]) -> ast.Dict | None:
  """The dictionary that an expression makes: itself, in a ConfigDict, or what a function returns."""
  if isinstance(node, ast.Dict):
    return node
  if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
    if node.func.id in functions:
      return next(n for n in ast.walk(functions[node.func.id]) if isinstance(n, ast.Dict))
    if node.func.id == 'ConfigDict':
      return _dict_of(node.args[0], functions)
  return None


def explanations() -> dict[str, str]:
  """What the comments say: `{'model.width': 'multiplies the features ...', ...}`.

  A key in a dictionary that stands on one line has the explanation of that line.
  """
  source = inspect.getsource(recipes) + inspect.getsource(spec)  # layers are made there
  comments = _Comments(source)
  functions = {n.name: n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)}

  def walk(node: ast.Dict, prefix: str, said: str) -> Iterator[tuple[str, str]]:
    for key, value in zip(node.keys, node.values, strict=True):
      if not isinstance(key, ast.Constant) or not isinstance(key.value, str):
        raise ValueError(f'recipes.py, line {node.lineno}: keys of configs are written out')
      name = f'{prefix}{key.value}'
      own = said if key.lineno == node.lineno else comments.at(key.lineno)
      yield name, own
      inner = _dict_of(value, functions)
      if inner:
        yield from walk(inner, f'{name}.', own)

  whole = next(n for n in ast.walk(functions['paper']) if isinstance(n, ast.Dict))
  return dict(walk(whole, '', ''))


def _entries(config: ConfigDict | FrozenConfigDict) -> Iterator[tuple[str, object, str]]:
  """Key, value and meaning of each leaf; of keys that a config file made up the last is empty."""
  said = explanations()
  for key, value in config_lib.flatten(config).items():
    yield key, value, said.get(key, '')


def help_text(config: ConfigDict | FrozenConfigDict) -> str:
  """Every key, its value in `config` and what it means, for a terminal."""
  lines = []
  for key, value, meaning in _entries(config):
    lines.append(f'  --config.{key}={value!r}')
    lines += textwrap.wrap(meaning, 100, initial_indent=' ' * 8, subsequent_indent=' ' * 8)
  return '\n'.join(lines)


def table() -> str:
  """docs/CONFIG.md."""
  escaped = lambda text: text.replace('|', '\\|')
  rows = [
    f'| `{key}` | `{escaped(repr(value))}` | {escaped(meaning)} |'
    for key, value, meaning in _entries(recipes.paper())
  ]
  return '\n'.join([_HEADER, *rows])


if __name__ == '__main__':
  print(table())
