"""Values and functions that the tests of alexnet_jax.serve share."""

import asyncio
import contextlib
import re
import socket
import subprocess
import urllib.parse

from tiny import ROOT, command

MIB = 1  # the largest upload of `client`
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


def form_of(*files):
  """Returns the body and the headers of a form with files."""
  head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
  body = b''.join(head + data + b'\r\n' for data in files) + b'--x--\r\n'
  return body, {'Content-Type': 'multipart/form-data; boundary=x'}


def open_upload(address, content_type='image/png'):
  """Returns a connection over which a part of an upload has been sent."""
  url = urllib.parse.urlsplit(address)
  connection = socket.create_connection((url.hostname, url.port), timeout=60)
  head = f'POST /predict HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: 100000\r\n'
  head += f'Content-Type: {content_type}\r\n\r\n'
  connection.sendall(head.encode() + bytes(1000))
  return connection
