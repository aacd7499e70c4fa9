"""The server answers and refuses requests over HTTP, and its page works in a browser."""

from concurrent.futures import ThreadPoolExecutor
import io
import json
import os
import re
import signal
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

from browser import open_chromium
import numpy as np
from PIL import Image
import pytest
from serve_helpers import MARKUP_NAME, MIB, form_of, open_upload, post_slowly, start_server
from starlette.responses import Response
from starlette.testclient import TestClient
from tiny import until
import uvicorn

from alexnet_jax import config as config_lib
from alexnet_jax.cli import main as main_lib
from alexnet_jax.inference import predict
from alexnet_jax.serve import app, limits


def test_predictions_are_those_of_mode_predict(run, client):
  path = run / 'images' / '2.png'
  answer = client.post('/predict', content=path.read_bytes()).json()
  expected = predict.predict(config_lib.load_workdir(run / 'run'), run / 'run', [str(path)])
  top = expected['images'][0]['top']
  assert [guess['label'] for guess in answer['top']] == [guess['label'] for guess in top]
  for found, guess in zip(answer['top'], top, strict=True):
    assert found['probability'] == pytest.approx(guess['probability'], rel=1e-4)


def test_a_form_has_an_answer_for_each_file(run, client):
  paths = [run / 'images' / name for name in ('2.png', MARKUP_NAME)]
  form = [('image', (path.name, path.read_bytes())) for path in paths]
  answer = client.post('/predict', files=form, data={'note': 'a field'}).json()
  alone = [client.post('/predict', content=path.read_bytes()).json() for path in paths]
  assert [image.pop('name') for image in answer['images']] == ['2.png', MARKUP_NAME]
  assert answer['images'] == alone


def test_invalid_forms_are_refused(run, client):
  data = (run / 'images' / '2.png').read_bytes()
  big = io.BytesIO()
  Image.new('RGB', (300, 200)).save(big, 'PNG')
  for files, status, words in (
    ([('a', ('good.png', data)), ('b', ('bad.png', b'no image'))], 422, 'bad.png is not'),
    ([('a', ('big.png', big.getvalue()))], 422, '300x200 pixels'),
    ([('a', ('1.png', data))] * 17, 413, 'at most 16'),
    ([('a', ('1.png', bytes(MIB << 19)))] * 2, 413, 'at most 1 MiB'),
    ([('a', (None, b'a field'))], 400, 'no file'),
  ):
    answer = client.post('/predict', files=files)
    assert answer.status_code == status and words in answer.json()['error']
  headers = {'origin': 'http://evil.example'}
  assert client.post('/predict', files={'a': ('1.png', data)}, headers=headers).status_code == 403


def test_neighbours_are_the_nearest_by_distance(run, client):
  with np.load(run / 'x.npz') as file:
    vectors, paths = file['features'], list(file['paths'])
  own = paths.index(str(run / 'images' / MARKUP_NAME))
  answer = client.post('/predict', content=(run / 'images' / MARKUP_NAME).read_bytes()).json()
  distances = np.linalg.norm(vectors.astype(np.float64) - vectors[own], axis=1)
  order = np.argsort(distances)[:6]
  assert [near['index'] for near in answer['neighbours']] == list(order) and order[0] == own
  assert answer['neighbours'][0]['name'] == MARKUP_NAME
  found = [near['distance'] for near in answer['neighbours']]
  np.testing.assert_allclose(found, distances[order], rtol=1e-3, atol=1e-4 * distances.max())
  image = client.get(f'/neighbours/{own}')
  with (
    Image.open(io.BytesIO(image.content)) as picture,
    Image.open(run / 'images' / MARKUP_NAME) as file,
  ):
    assert picture.size == (72, 72)
    difference = np.asarray(picture, int) - np.asarray(file.resize((72, 72)), int)
  assert np.abs(difference).mean() < 20  # two different images differ by 85; JPEG blurs colours


def test_invalid_requests_are_refused(client):
  big = io.BytesIO()
  Image.new('RGB', (300, 200)).save(big, 'PNG')
  for data, status, words in (
    (b'no image', 422, 'not a readable image'),
    (b'', 422, 'not a readable image'),
    (big.getvalue(), 422, '300x200 pixels'),
    (bytes((MIB << 20) + 1), 413, 'at most 1 MiB'),
  ):
    answer = client.post('/predict', content=data)
    assert answer.status_code == status and words in answer.json()['error']
  assert client.get('/neighbours/8').status_code == 404
  for index in ('-1', 'x', '1' * 5000):  # Python refuses to convert more than 4300 digits
    assert client.get(f'/neighbours/{index}').status_code == 404
  assert client.get('/examples/20').status_code == client.get('/kernels/2').status_code == 404
  assert client.get('/network.py').status_code == client.get('/../app.py').status_code == 404
  for path, status in (('/network.py', 404), ('/predict', 405)):
    answer = client.get(path)
    assert answer.status_code == status and answer.json()['error']
    assert answer.headers['x-content-type-options'] == 'nosniff'
  assert client.get('/', headers={'host': 'evil.example'}).status_code == 400


def test_pages_have_a_content_security_policy(client):
  paths = ['/', '/page.css', '/page.js', '/about', '/kernels/1', '/examples/0', '/openapi.json']
  for path in paths:
    answer = client.get(path)
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers['content-security-policy']
    assert answer.headers['x-content-type-options'] == 'nosniff'
    assert answer.headers['cross-origin-resource-policy'] == 'same-origin'
  about = client.get('/about').json()
  assert about['neighbours_among'] == 8 and about['max_bytes'] == MIB << 20
  assert 'innerHTML' not in client.get('/page.js').text
  assert re.findall('(?:src|href)="([^"]*)"', client.get('/').text) == [
    'data:,', 'page.css', 'page.js', 'openapi.json',
  ]  # fmt: skip


def test_an_endless_upload_is_cut_off(client):
  """The server stops reading at its limit."""
  sent = 0

  async def receive():
    nonlocal sent
    sent += 1
    return {'type': 'http.request', 'body': bytes(1 << 16), 'more_body': True}

  assert post_slowly(client.app, receive)[0] == 413 and sent == 17


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    ([], '--mode=serve needs --workdir'),
    (['--workdir=RUN', '--config.model.width=0.5'], 'but the checkpoint was trained with 0.0625'),
    (['--workdir=RUN', '--features=none.npz'], '--features=none.npz cannot be read'),
    (['--workdir=RUN', '--features=split.npz'], 'split.npz has no paths: write it with'),
    (
      ['--workdir=RUN', '--features=old.npz'],
      'old.npz belongs to checkpoint 9, but checkpoint 0 is served',
    ),
    (['--workdir=RUN', '--host=192.0.2.7'], '--host=192.0.2.7 --port=8000 cannot be listened on'),
    (['--workdir=RUN', '--port=70000'], '--port=70000 cannot be listened on'),
  ],
)
def test_invalid_arguments_are_refused(run, tmp_path, monkeypatch, capsys, args, message):
  monkeypatch.chdir(tmp_path)
  with np.load(run / 'x.npz') as file:
    arrays = dict(file)
  np.savez('old.npz', **arrays | {'checkpoint': 9})
  del arrays['paths']
  np.savez('split.npz', **arrays)
  assert (
    main_lib.main(['--mode=serve', *(arg.replace('RUN', str(run / 'run')) for arg in args)]) == 2
  )
  out, err = capsys.readouterr()
  assert message in err and 'Traceback' not in err and not out


@pytest.fixture(scope='module')
def server(run):
  """The process of the server, and its address."""
  with start_server(run) as started:
    yield started


def memory(process, field):
  """Returns the memory of a process in bytes: the current size (`VmRSS`) or the peak (`VmHWM`)."""
  with open(f'/proc/{process.pid}/status') as file:
    return 1024 * int(re.search(rf'{field}:\s+(\d+) kB', file.read())[1])


def post(address, data, **headers):
  """Posts an image, and returns the status, the headers and the JSON of the answer."""
  request = urllib.request.Request(f'{address}predict', data, headers)
  try:
    with urllib.request.urlopen(request, timeout=120) as answer:
      return answer.status, answer.headers, json.loads(answer.read())
  except urllib.error.HTTPError as error:
    return error.code, error.headers, json.loads(error.read())


def post_until_accepted(address, data):
  """Posts an image, and repeats the request while the server is busy, as the page does."""

  def accepted():
    status, headers, answer = post(address, data)
    if status != 503:
      return status, answer
    time.sleep(int(headers['Retry-After']))

  return until(accepted)


@pytest.mark.long
@pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='needs /proc')
@pytest.mark.parametrize('of_form', [0, 2])
def test_thirty_large_images_at_once_take_less_than_a_gigabyte(run, server, of_form):
  """Each is a transparent WebP file of 130 KB with 7000x7000 pixels, alone or twice in a form.

  Another visitor gets the same answers as before.
  """
  process, address = server
  file = io.BytesIO()
  Image.new('RGBA', (7000, 7000), (9, 9, 9, 100)).save(file, 'WEBP', method=0, quality=50)
  body, headers = form_of(*[file.getvalue()] * of_form) if of_form else (file.getvalue(), {})
  ordinary = (run / 'images' / '2.png').read_bytes()
  before = post(address, ordinary)[2]
  idle = memory(process, 'VmRSS')
  with ThreadPoolExecutor(31) as pool:
    attack = [pool.submit(post, address, body, **headers) for _ in range(30)]
    visitor = pool.submit(post_until_accepted, address, ordinary)
    answers = [one.result() for one in attack]
    assert visitor.result() == (200, before)
  assert memory(process, 'VmHWM') - idle < 1e9
  statuses = {status for status, _, _ in answers}
  assert statuses == {200, 503}
  assert all(int(headers['Retry-After']) > 0 for status, headers, _ in answers if status == 503)
  assert len({json.dumps(answer) for status, _, answer in answers if status == 200}) == 1
  assert post(address, ordinary)[2] == before


def test_a_page_of_another_site_may_not_post(run, server):
  ordinary = (run / 'images' / '2.png').read_bytes()
  body, headers = form_of(ordinary)
  assert post(server[1], body, Origin='http://evil.example', **headers)[0] == 403
  assert post(server[1], body, **headers)[0] == 200
  status, _, answer = post(server[1], ordinary, Origin='http://evil.example')
  assert status == 403 and 'another site' in answer['error']
  assert post(server[1], ordinary, Origin=server[1].rstrip('/'))[0] == 200


def test_the_server_survives_an_aborted_upload(run, server):
  """`start_server` checks that the server printed no traceback."""
  for content_type in ('image/png', 'multipart/form-data; boundary=x', 'image/png'):
    open_upload(server[1], content_type).close()
  assert post(server[1], (run / 'images' / '2.png').read_bytes())[0] == 200


@pytest.mark.long
def test_a_connection_without_a_request_is_closed(server):
  """So is one on which no whole request follows the first."""
  url = urllib.parse.urlsplit(server[1])
  address = url.hostname, url.port
  with (
    socket.create_connection(address, timeout=120) as silent,
    socket.create_connection(address, timeout=120) as begun,
  ):
    begun.sendall(f'GET /about HTTP/1.1\r\nHost: {url.netloc}\r\n\r\nG'.encode())
    assert begun.recv(12) == b'HTTP/1.1 200'
    while begun.recv(1 << 16):
      pass
    assert silent.recv(1) == b''


REQUEST = b'GET / HTTP/1.1\r\nHost: x\r\n\r\n'


@pytest.mark.parametrize(
  ('requests', 'size'),
  [
    (REQUEST, 32 * MIB),
    (REQUEST.replace(b'x', b'x\r\nConnection: close'), 32 * MIB),
    (REQUEST * 99, MIB),
  ],
  ids=['one', 'last', 'many'],
)
def test_a_visitor_who_does_not_read_is_disconnected(monkeypatch, requests, size):
  """The buffers of the system take some MiB of an answer."""
  monkeypatch.setattr(limits, 'UPLOAD_SECONDS', 0.3)
  config = uvicorn.Config(
    Response(bytes(size << 20)), http=app._ImpatientProtocol, lifespan='off', log_config=None
  )
  server = uvicorn.Server(config)
  with socket.create_server(('127.0.0.1', 0)) as listener:
    address = listener.getsockname()
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
      with socket.create_connection(address, timeout=60) as visitor:
        visitor.sendall(requests)
        until(lambda: server.server_state.total_requests)
        until(lambda: not server.server_state.connections, 30)
    finally:
      server.should_exit = True
      thread.join()


def wait_until(page, condition):
  """Waits until a JavaScript expression is true; `wait_for_function` would violate the page's policy."""
  until(lambda: page.evaluate(condition) or page.wait_for_timeout(50))


DROP = """(files) => {
  const moved = new DataTransfer();
  for (const {name, mimeType, bytes} of files) {
    moved.items.add(new File([new Uint8Array(bytes)], name, {type: mimeType}));
  }
  const drop = new DragEvent('drop', {bubbles: true, cancelable: true, dataTransfer: moved});
  document.getElementById('drop').dispatchEvent(drop);
}"""


@pytest.mark.long
@pytest.mark.parametrize('phone', [False, True])
def test_the_page_classifies_images_in_a_browser(run, server, phone):
  """Markup in a file name is shown as text, and nothing is wider than the screen."""
  with open_chromium() as browser:
    size = {'width': 360, 'height': 740} if phone else {'width': 1100, 'height': 800}
    page = browser.new_page(
      viewport=size, color_scheme='dark' if phone else 'light', has_touch=phone
    )
    problems = []
    page.on('pageerror', lambda error: problems.append(str(error)))
    page.on('console', lambda entry: problems.append(entry.text) if entry.type == 'error' else None)
    page.on('dialog', lambda dialog: (problems.append('an alert'), dialog.dismiss()))
    page.goto(server[1])
    page.wait_for_selector('#examples button')
    assert page.locator('#question').inner_text().lower() == 'which of 7 classes?'
    assert page.locator('#photograph').is_visible() == phone
    data = {name: (run / 'images' / name).read_bytes() for name in ('0.png', MARKUP_NAME)}
    if phone:
      files = [
        {'name': name, 'mimeType': 'image/png', 'buffer': data} for name, data in data.items()
      ]
      page.set_input_files('#file', files)
    else:
      files = [
        {'name': name, 'mimeType': 'image/png', 'bytes': list(data)} for name, data in data.items()
      ]
      page.evaluate(DROP, files)
    wait_until(page, "document.querySelectorAll('#history li').length === 2")
    wait_until(page, '[...document.images].every((image) => image.complete)')
    bars = page.locator('#bars progress').evaluate_all('(bars) => bars.map((bar) => bar.value)')
    assert len(bars) == 5 and bars == sorted(bars, reverse=True)
    expected = predict.predict(
      config_lib.load_workdir(run / 'run'), run / 'run', [str(run / 'images' / MARKUP_NAME)]
    )
    assert bars[0] == pytest.approx(expected['images'][0]['top'][0]['probability'], rel=1e-3)
    assert page.locator('#neighbours .file').first.inner_text() == MARKUP_NAME
    loaded = '(images) => images.every((image) => image.naturalWidth > 0)'
    assert page.locator('#neighbours img, #towers img, #preview').evaluate_all(loaded)
    assert page.locator('#towers img:visible').count() == 4
    assert page.evaluate('document.documentElement.scrollWidth <= window.innerWidth')
    if 'SCREENSHOTS' in os.environ:
      page.screenshot(
        path=f'{os.environ["SCREENSHOTS"]}/{"phone" if phone else "desk"}.png', full_page=True
      )
    page.locator('#examples button').last.click()
    page.wait_for_selector('#message .right, #message .wrong')
    assert 'the image shows class6' in page.locator('#message').inner_text()
    page.set_input_files('#file', {'name': 'x.png', 'mimeType': 'image/png', 'buffer': b'none'})
    wait_until(page, "document.querySelectorAll('#history li').length === 4")
    assert 'not a readable image' in page.locator('#message').inner_text()
    assert page.locator('#bars li').count() == 0
    page.locator('#history button').nth(2).click()  # newest first
    assert page.locator('#hint').inner_text() == MARKUP_NAME
    assert page.locator('#bars li').count() == 5
    page.locator('#clear').click()
    assert page.locator('#history li').count() == 0 and page.locator('#past').is_hidden()
    # A browser reports the status 422 in its console.
    assert [text for text in problems if '422' not in text] == []


def test_sigterm_ends_the_server_during_an_upload(server):
  """SIGTERM has the effect of Ctrl-C: the server prints its JSON. No later test uses this server."""
  process, address = server
  with open_upload(address) as upload:
    urllib.request.urlopen(f'{address}about', timeout=60).close()  # the upload has arrived before
    process.send_signal(signal.SIGTERM)
    answer = upload.makefile('rb').read()
    out, err = process.communicate(timeout=60)
  assert answer.startswith(b'HTTP/1.1 503') and b'the server is stopping' in answer
  assert process.returncode == 0, err
  assert json.loads(out) == {'address': address} and 'Traceback' not in err


def test_a_server_on_all_addresses_answers_to_every_name(network):
  assert app._allowed_hosts('127.0.0.1') == ['localhost', '127.0.0.1', '[::1]', '127.0.0.1']
  hosts = app._allowed_hosts('0.0.0.0')
  client = TestClient(app.create_app(network, MIB << 20, hosts), 'http://my-machine.lan')
  assert hosts == ['*'] and client.get('/about').status_code == 200


def test_loopback_addresses_are_recognised():
  assert app._is_loopback('127.0.0.9') and app._is_loopback('::1') and app._is_loopback('localhost')
  assert not app._is_loopback('0.0.0.0') and not app._is_loopback('example.org')
