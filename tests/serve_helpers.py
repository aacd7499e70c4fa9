"""Values and functions that the tests of alexnet_jax.serve share."""

import asyncio

MARKUP_NAME = '<img src=x onerror=alert(1)>.png'  # a file name that contains HTML markup


def post_slowly(app, receive):
  """Posts an upload whose parts the coroutine function `receive` gives; returns the status and the body."""
  messages = []

  async def send(message):
    messages.append(message)

  scope = {
    'type': 'http', 'method': 'POST', 'path': '/predict', 'headers': [(b'host', b'localhost')],
    'query_string': b'',
  }  # fmt: skip
  asyncio.run(app(scope, receive, send))
  return messages[0]['status'], messages[1]['body']
