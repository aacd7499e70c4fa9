"""docs/messages.md lists every message of the code, and each says what to do."""

from faults import messages
from tiny import ROOT

PAGE = ROOT / 'docs' / 'messages.md'


def test_every_message_is_on_the_page():
  """Made by `python -m tests.faults.messages`."""
  assert PAGE.read_text().endswith(messages.table())


def test_every_message_is_one_line_with_a_remedy():
  rows = [row for part in messages.messages().values() for row in part]
  assert len(rows) > 100
  assert [row for row in rows if not any(mark in row for mark in (': ', '; '))] == []
