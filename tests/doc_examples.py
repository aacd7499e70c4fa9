"""The commands, Python examples, config keys and paths that README.md, RESULTS.md and docs/ name."""

from collections.abc import Iterator
import pathlib
import re
import shlex
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent
# These pages are generated from other files, and other tests check them.
GENERATED = ('CONFIG.md',)
PAGES = sorted(
  path.relative_to(ROOT).as_posix()
  for path in [*ROOT.glob('README.md'), *ROOT.glob('RESULTS.md'), *ROOT.glob('CONTRIBUTING.md')]
  + [path for path in ROOT.glob('docs/*.md') if path.name not in GENERATED]
)
# Blocks in these languages contain neither commands nor Python.
PASSIVE = ('text', 'json', '{toctree}', '{eval-rst}', '{include}')
_FENCE = re.compile(r'^```(\S*)')
_SPAN = re.compile(r'`([^`\n]+)`')
_ASSIGNMENT = re.compile(r'[A-Z_]+=')


class Example(NamedTuple):
  """A Python block, or one command of a shell block or of a code span.

  Attributes:
    page: path of the page from the root of the repository.
    line: number of its first line, counted from 1.
    kind: python, command or span.
    text: the Python code, or the command as it is written.
    words: the words of the command, without the environment variables that are set before it.
  """

  page: str
  line: int
  kind: str
  text: str
  words: tuple[str, ...] = ()


def blocks(page: str) -> Iterator[tuple[int, str, str]]:
  """Yields (number of the first line inside, language, text) for each fenced block of a page."""
  language, first, inside = None, 0, []
  for number, line in enumerate((ROOT / page).read_text().splitlines(), 1):
    fence = _FENCE.match(line)
    if fence and language is None:
      language, first, inside = fence[1], number + 1, []
    elif fence:
      yield first, language, '\n'.join(inside)
      language = None
    elif language is not None:
      inside.append(line)


def spans(page: str) -> Iterator[tuple[int, str]]:
  """Yields (line number, text) for each code span of a page outside its blocks."""
  inside = False
  for number, line in enumerate((ROOT / page).read_text().splitlines(), 1):
    if _FENCE.match(line):
      inside = not inside
    elif not inside:
      for found in _SPAN.finditer(line):
        yield number, found[1]


def split_commands(line: str) -> list[tuple[str, ...]]:
  """Splits a line of shell code at && and ; and returns the words of each command, without comments."""
  lexer = shlex.shlex(line, posix=True, punctuation_chars='&;')
  lexer.whitespace_split = True
  commands: list[list[str]] = [[]]
  for word in lexer:
    if word in ('&&', ';'):
      commands.append([])
    elif commands[-1] or not _ASSIGNMENT.match(word):
      commands[-1].append(word)
  return [tuple(words) for words in commands if words]


def is_command(text: str, programs: tuple[str, ...]) -> bool:
  """Returns whether a code span is a command: it has at least two words, and the first is a program."""
  words = [word for word in text.split() if not _ASSIGNMENT.match(word)]
  return len(words) > 1 and words[0] in programs


def examples(page: str, programs: tuple[str, ...]) -> list[Example]:
  """Returns all Python blocks and commands of a page in the order in which they occur.

  Args:
    page: path from the root of the repository.
    programs: a code span that begins with one of these words is a command.

  Raises:
    ValueError: a block names no language, or an unknown one.
  """
  found = []
  for first, language, text in blocks(page):
    if language == 'python':
      found.append(Example(page, first, 'python', text))
    elif language == 'bash':
      number = first
      for line in re.sub(r'\\\n', ' ', text).splitlines():
        found += [Example(page, number, 'command', line, words) for words in split_commands(line)]
        number += 1
    elif language not in PASSIVE:
      raise ValueError(f'{page}, line {first}: name the language of the block: bash, python, text')
  for number, text in spans(page):
    if is_command(text, programs):
      found += [Example(page, number, 'span', text, words) for words in split_commands(text)]
  return sorted(found, key=_line)


def _line(example: Example) -> int:
  return example.line
