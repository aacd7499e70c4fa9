"""The server around a network: Starlette answers, uvicorn listens, on the loopback address by default."""

import contextlib
import ipaddress
import json
import pathlib
import signal
import socket
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from alexnet_jax.errors import UserError
from alexnet_jax.serve.network import Network
from alexnet_jax.utils.optional_import import import_module

_FILES = {'/': 'page.html', '/page.css': 'page.css', '/page.js': 'page.js'}
_FOLDER = pathlib.Path(__file__).parent
_HEADERS = {
  # Nothing from elsewhere, no inline script; data: and blob: are the preview of what was dropped.
  'Content-Security-Policy': "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
  "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
  'Cache-Control': 'no-store',
}
_NEED = '--mode=serve'
_PATIENCE = 3  # seconds that answers under way have when it ends


def _is_loopback(host: str) -> bool:
  try:
    return host == 'localhost' or ipaddress.ip_address(host).is_loopback
  except ValueError:
    return False


def create_app(network: Network, max_bytes: int, hosts: list[str]) -> Any:
  """The Starlette application.

  Args:
    network: that answers.
    max_bytes: of an image that is sent.
    hosts: names by which it may be called; ['*'] for any. Others are refused, so that no page of another
      name that resolves to this machine can read it.
  """
  starlette = lambda name: import_module(f'starlette.{name}', 'starlette uvicorn', _NEED)
  responses, routing = starlette('responses'), starlette('routing')
  in_thread = starlette('concurrency').run_in_threadpool
  kernels = network.kernels()

  def say(value: object, status: int = 200) -> Any:
    return responses.Response(json.dumps(value), status, _HEADERS, 'application/json')

  async def file(request: Any) -> Any:
    return responses.FileResponse(_FOLDER / _FILES[request.url.path], headers=_HEADERS)

  async def about(request: Any) -> Any:
    return say(network.about() | {'max_bytes': max_bytes})

  async def picture(request: Any) -> Any:
    return responses.Response(kernels, 200, _HEADERS, 'image/png')

  async def neighbour(request: Any) -> Any:
    try:
      image = await in_thread(network.neighbour, request.path_params['place'])
    except (IndexError, OSError, ValueError):
      return say({'error': 'there is no such image, or it cannot be read any more'}, 404)
    return responses.Response(image, 200, _HEADERS, 'image/jpeg')

  async def answer(request: Any) -> Any:
    data = bytearray()
    async for part in request.stream():
      data += part
      if len(data) > max_bytes:
        return say({'error': f'the file is too large: at most {max_bytes >> 20} MiB'}, 413)
    try:
      return say(await in_thread(network.answer, bytes(data)))
    except ValueError as error:
      return say({'error': f'not an image that can be read: {" ".join(str(error).split())}'}, 422)

  routes = [routing.Route(path, file) for path in _FILES]
  routes += [
    routing.Route('/about', about),
    routing.Route('/kernels.png', picture),
    routing.Route('/neighbours/{place:int}', neighbour),
    routing.Route('/predict', answer, methods=['POST']),
  ]
  trusted = starlette('middleware.trustedhost').TrustedHostMiddleware
  middleware = starlette('middleware').Middleware(trusted, allowed_hosts=hosts)
  return starlette('applications').Starlette(routes=routes, middleware=[middleware])


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
    config: whose `eval` (views, weights) and `serve` (limits) are used.
    workdir: of the run.
    which: checkpoint: best, latest or a step.
    features: an .npz file of `--mode=features --images=`, for the neighbours, or ''.
    host: address to listen at.
    port: 0 takes any that is free.

  Returns:
    `{'address'}`.

  Raises:
    UserError: the network or the features cannot be read, or the address cannot be listened at.
  """
  if not 0 <= port < 2**16:
    raise UserError(f'--port={port} cannot be listened at: choose one up to 65535')
  uvicorn = import_module('uvicorn', 'starlette uvicorn', _NEED)
  network = Network(config, workdir, which, features)
  hosts = ['localhost', '127.0.0.1', '[::1]', host] if _is_loopback(host) else ['*']
  app = create_app(network, config.serve.max_mib << 20, hosts)
  try:
    listener = socket.create_server(
      (host, port), family=socket.AF_INET6 if ':' in host else socket.AF_INET
    )
  except (OSError, OverflowError) as error:
    raise UserError(
      f'--host={host} --port={port} cannot be listened at ({error}): choose others'
    ) from None
  with listener:
    name = f'[{host}]' if ':' in host else host
    address = f'http://{name}:{listener.getsockname()[1]}/'
    if not _is_loopback(host):
      logging.warning('--host=%s: everybody who can reach this machine can use the page', host)
    server = uvicorn.Server(
      uvicorn.Config(app, log_level='warning', timeout_graceful_shutdown=_PATIENCE)
    )
    with contextlib.suppress(KeyboardInterrupt):
      signal.signal(signal.SIGTERM, signal.default_int_handler)  # the same end as Ctrl-C's
      logging.info('serving %s at %s, until Ctrl-C', workdir, address)
      server.run(sockets=[listener])
  return {'address': address}
