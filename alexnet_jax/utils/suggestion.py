"""Suggestions for a name that is not known."""

from collections.abc import Iterable
import difflib

_FEW = 40  # names that fit into a message


def suggest(name: str, known: Iterable[str], otherwise: str = '') -> str:
  """Returns `did you mean X?` for the nearest known name; without a near one, the known names.

  Args:
    name: the name that is not known.
    known: the known names.
    otherwise: what the message says instead of the known names where they are too many to list.
  """
  known = list(known)
  if near := difflib.get_close_matches(name, known, 1):
    return f'did you mean {near[0]}?'
  if otherwise and len(known) > _FEW:
    return otherwise
  return f'choose one of {", ".join(known)}'
