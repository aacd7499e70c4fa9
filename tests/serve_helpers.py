"""Values and functions that the tests of alexnet_jax.serve share."""

import asyncio
import contextlib
import re
import subprocess

from tiny import ROOT, command

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


@contextlib.contextmanager
def start_server(run):
  """Starts the server with its command, and yields the process and its address."""
  args = [f'--workdir={run / "run"}', f'--features={run / "x.npz"}', '--port=0']
  line, env = command('--mode=serve', *args)
  process = subprocess.Popen(
    line, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )
  try:
    for message in process.stderr:
      if found := re.search(r'http://127\.0\.0\.1:\d+/', message):
        break
    yield process, found[0]
  finally:
    process.kill()
    assert 'Traceback' not in process.communicate()[1]
