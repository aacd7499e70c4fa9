"""`python -m tests.faults.messages`: the second table of docs/messages.md, from the code itself."""

import ast
import re

from tiny import ROOT

_ERRORS = ('UserError', 'RunError')
_TITLES = {
  'cli': 'The command line',
  'config': 'Configs',
  'recipes': 'Configs',
  'optim': 'Configs',
  'augment': 'Configs',
  'models': 'Configs',
  'parallel': 'Devices',
  'distributed': 'Several processes',
  'data': 'Images and stores',
  'interop': 'Weights from elsewhere',
  'predict': 'Predictions',
  'evaluate': 'Evaluation',
  'checkpoint': 'Workdirs and checkpoints',
  'workdir': 'Workdirs and checkpoints',
  'train': 'Workdirs and checkpoints',
}


def text_of(node: ast.AST) -> str:
  """A string as a user would see it, with `...` for what is filled in; '' of anything else."""
  if isinstance(node, ast.Constant) and isinstance(node.value, str):
    return node.value
  if isinstance(node, ast.JoinedStr):
    return ''.join(text_of(part) or '...' for part in node.values)
  if isinstance(node, ast.IfExp):
    return text_of(node.body)
  if isinstance(node, ast.BinOp):
    return text_of(node.left) + text_of(node.right)
  return ''


def messages() -> dict[str, list[str]]:
  """Every error message of the code, by the part of the program it belongs to."""
  found: dict[str, list[str]] = {}
  package = ROOT / 'alexnet_jax'
  for path in sorted(package.rglob('*.py')):
    place = path.relative_to(package).parts[0].removesuffix('.py')
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Call) and getattr(node.func, 'id', '') in _ERRORS and node.args:
        text = ' '.join(text_of(node.args[0]).split())
        if re.search('[a-z]{3}', text):
          rows = found.setdefault(_TITLES.get(place, 'Others'), [])
          if text not in rows:
            rows.append(text)
  return found


def table() -> str:
  """The messages, what is wrong and what to do apart."""
  lines = []
  for title, rows in messages().items():
    lines += [f'### {title}', '', '| what is wrong | what to do |', '|---|---|']
    for row in rows:
      wrong, colon, remedy = row.rpartition(': ')
      if not colon:
        wrong, colon, remedy = row.rpartition('; ')
      cells = (wrong, remedy) if colon else (row, '')
      lines.append('| ' + ' | '.join(cell.replace('|', '\\|') for cell in cells) + ' |')
    lines.append('')
  return '\n'.join(lines).rstrip() + '\n'


if __name__ == '__main__':
  print(table(), end='')
