"""The web server of the page: Starlette handles the requests, and uvicorn listens.

The address is the loopback address by default. `limits` documents the limits.
"""

import asyncio
from collections.abc import Callable, Iterator
import contextlib
import ipaddress
import json
import pathlib
import signal
import socket
import threading
from typing import Any

from absl import logging
from ml_collections import ConfigDict
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from alexnet_jax.errors import RunError, UserError
from alexnet_jax.serve import forms, limits, openapi
from alexnet_jax.serve.network import Network

_FILES = {'/': 'page.html', '/page.css': 'page.css', '/page.js': 'page.js'}
_FOLDER = pathlib.Path(__file__).parent
_HEADERS = {
  # Everything comes from this server, and there are no inline scripts. The preview of an image uses
  # data: and blob: addresses.
  'Content-Security-Policy': "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
  "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'Cross-Origin-Resource-Policy': 'same-origin',
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
  'Cache-Control': 'no-store',
}
_SHUTDOWN_SECONDS = 3  # time for running requests when the server stops
_MAX_CONNECTIONS = 100  # beyond these, uvicorn answers 503


def _is_loopback(host: str) -> bool:
  try:
    return host == 'localhost' or ipaddress.ip_address(host).is_loopback
  except ValueError:
    return False


def _allowed_hosts(host: str) -> list[str]:
  """Returns the names in Host headers that are answered, for the address of `--host`; ['*'] means any.

  This machine has other names in a network, so only a server on a loopback address checks them.
  """
  return ['localhost', '127.0.0.1', '[::1]', host] if _is_loopback(host) else ['*']


class _Handlers:
  """The request handlers of the page."""

  def __init__(self, network: Network, max_bytes: int):
    self._network = network
    self._limits = limits.Limits(max_bytes)

  def _respond(
    self, content: bytes, media_type: str, status: int = 200, **headers: str
  ) -> Response:
    return Response(content, status, _HEADERS | headers, media_type)

  def _json(self, value: object, status: int = 200, **headers: str) -> Response:
    return self._respond(json.dumps(value).encode(), 'application/json', status, **headers)

  async def file(self, request: Request) -> Response:
    """Returns a file of the page."""
    return FileResponse(_FOLDER / _FILES[request.url.path], headers=_HEADERS)

  async def about(self, request: Request) -> Response:
    """Returns the description of the network, as JSON."""
    return self._json(self._network.about() | {'max_bytes': self._limits.max_bytes})

  async def openapi(self, request: Request) -> Response:
    """Returns the description of the HTTP interface, as JSON."""
    return self._json(openapi.document(self._limits.max_bytes))

  async def kernels(self, request: Request) -> Response:
    """Returns the kernels of the first layer of a tower, as PNG."""
    return await self._picture(self._network.kernels, request.path_params['tower'], 'image/png')

  async def example(self, request: Request) -> Response:
    """Returns an example, as PNG."""
    return await self._picture(self._network.example, request.path_params['index'], 'image/png')

  async def neighbour(self, request: Request) -> Response:
    """Returns an image of the features, as JPEG."""
    return await self._picture(self._network.neighbour, request.path_params['index'], 'image/jpeg')

  async def _picture(self, make: Callable[[int], bytes], index: str, media_type: str) -> Response:
    try:
      number = int(index)  # ValueError: it has letters, or thousands of digits
      async with self._limits.decoding:
        image = await run_in_threadpool(make, number)
    except (IndexError, OSError, ValueError):
      return self._json({'error': 'there is no such image, or it cannot be read any more'}, 404)
    return self._respond(image, media_type)

  async def predict(self, request: Request) -> Response:
    """Classifies the image, or the form with images, in the body of a POST."""
    try:
      try:
        limits.check_origin(request.headers)
        with self._limits.upload():
          return self._json(await self._predict(request))
      except limits.Refused as error:
        if error.status in (403, 503):
          await limits.discard(request, self._limits.max_bytes)
        retry = {'Retry-After': str(limits.RETRY_SECONDS)} if error.status == 503 else {}
        return self._json({'error': str(error)}, error.status, **retry)
    except ClientDisconnect:
      return self._respond(b'', 'text/plain', 400)  # the visitor is gone and does not see it
    except asyncio.CancelledError:  # uvicorn cancels what still runs a while after SIGTERM
      return self._json({'error': 'the server is stopping'}, 503)

  async def _predict(self, request: Request) -> dict[str, Any]:
    """Returns the answer to a file, or the answers to the files of a form; raises Refused."""
    data = await self._limits.read(request)
    with_activations = request.query_params.get('activations') == '1'
    content_type = request.headers.get('content-type', '')
    if not forms.is_form(content_type):
      return await self._classify(data, 'the file', with_activations)
    answers = []
    for file in forms.files(data, content_type):
      answer = await self._classify(file.content, file.name, with_activations)
      answers.append({'name': file.name} | answer)
    return {'images': answers}

  async def _classify(self, data: Any, name: str, with_activations: bool) -> dict[str, Any]:
    try:
      async with self._limits.decoding:
        canvas = await run_in_threadpool(self._network.decode, data)
    except ValueError as error:
      reason = ' '.join(str(error).split())
      raise limits.Refused(422, f'{name} is not a readable image: {reason}') from None
    try:
      return await run_in_threadpool(self._network.classify, canvas, with_activations)
    except RunError as error:
      raise limits.Refused(500, str(error)) from None

  async def failed(self, request: Request, error: Exception) -> Response:
    """Returns the reason why a request failed, as JSON."""
    reason, status = (
      getattr(error, 'detail', 'the server failed'),
      getattr(error, 'status_code', 500),
    )
    return self._json({'error': reason}, status, **(getattr(error, 'headers', None) or {}))


class _ImpatientProtocol(H11Protocol):
  """uvicorn's HTTP protocol, which closes connections on which nothing is sent or read in time.

  uvicorn limits only the time between an answer and the first byte of the next request. Connections without
  a whole request, and those of visitors who do not read, would count as visitors for ever.
  """

  def connection_made(self, transport):
    super().connection_made(transport)
    self._check_later()

  def _check_later(self):
    # After `close`, the socket stays open until the visitor has read the answer.
    unread = self.flow.write_paused or self.transport.is_closing()
    self.loop.call_later(limits.UPLOAD_SECONDS, self._close_if_silent, self.cycle, unread)

  def _close_if_silent(self, before, was_unread):
    """Closes the connection if nobody has asked, or nobody has read an answer, since the last check.

    Args:
      before: the last request at that check.
      was_unread: whether an answer was still to be read then.
    """
    if self not in self.connections:  # it is lost
      return
    is_silent = self.cycle is before
    if is_silent and was_unread and (self.flow.write_paused or self.transport.is_closing()):
      self.transport.abort()
      return
    if is_silent and (before is None or before.response_complete):
      self.transport.close()
    self._check_later()


def create_app(network: Network, max_bytes: int, hosts: list[str]) -> Starlette:
  """Creates the Starlette application.

  Args:
    network: the network.
    max_bytes: largest size of an upload.
    hosts: allowed host names, or ['*'] for any. A request with another Host header is refused, so
      that a page of another name that resolves to this machine cannot read the answers.
  """
  handlers = _Handlers(network, max_bytes)
  routes = [Route(path, handlers.file) for path in _FILES]
  routes += [
    Route('/about', handlers.about),
    Route('/openapi.json', handlers.openapi),
    Route('/kernels/{tower}', handlers.kernels),
    Route('/examples/{index}', handlers.example),
    Route('/neighbours/{index}', handlers.neighbour),
    Route('/predict', handlers.predict, methods=['POST']),
  ]
  check_host = Middleware(TrustedHostMiddleware, allowed_hosts=hosts)
  return Starlette(
    routes=routes,
    middleware=[check_host],
    exception_handlers={HTTPException: handlers.failed, 500: handlers.failed},
  )


def serve(
  config: ConfigDict,
  workdir: str,
  which: str = 'best',
  features: str = '',
  host: str = '127.0.0.1',
  port: int = 8000,
) -> dict[str, object]:
  """Serves the page until Ctrl-C or SIGTERM.

  Args:
    config: `data` (examples), `eval` (views, weights) and `serve` (limits) are used.
    workdir: folder of the run.
    which: the checkpoint: best, latest or a step.
    features: an .npz file of `--mode=features --images=`, for the nearest images, or ''.
    host: address to listen on.
    port: port to listen on; 0 chooses a free one.

  Returns:
    `{'address'}`; it is None if the server was stopped before it listened.

  Raises:
    UserError: the network or the features cannot be read, or the address cannot be listened on.
  """
  if not 0 <= port < 2**16:
    raise UserError(f'--port={port} cannot be listened on: choose one up to 65535')
  address = None
  with contextlib.suppress(KeyboardInterrupt), _sigterm_as_interrupt():
    network = Network(config, workdir, which, features)
    app = create_app(network, config.serve.max_mib << 20, _allowed_hosts(host))
    with _listen(host, port) as listener:
      name = f'[{host}]' if ':' in host else host
      address = f'http://{name}:{listener.getsockname()[1]}/'
      if not _is_loopback(host):
        logging.warning('--host=%s: everyone who can reach this machine can use the page', host)
      server = uvicorn.Server(
        uvicorn.Config(
          app,
          log_level='warning',
          timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
          limit_concurrency=_MAX_CONNECTIONS,
          http=_ImpatientProtocol,
        )
      )
      logging.info('serving %s at %s, until Ctrl-C', workdir, address)
      server.run(sockets=[listener])
  return {'address': address}


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
  """Makes SIGTERM raise KeyboardInterrupt, like Ctrl-C, in the main thread."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, previous)


def _listen(host: str, port: int) -> socket.socket:
  try:
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    return socket.create_server((host, port), family=family)
  except (OSError, OverflowError) as error:
    raise UserError(
      f'--host={host} --port={port} cannot be listened on ({error}): choose others'
    ) from None
