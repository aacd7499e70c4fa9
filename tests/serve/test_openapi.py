"""The answers of the server agree with its OpenAPI document."""

import asyncio
import json

import jsonschema
import numpy as np
import pytest
from serve_helpers import post_slowly

from alexnet_jax.inference.classifier import Classifier
from alexnet_jax.serve import limits

FILES = {'/', '/page.css', '/page.js'}


@pytest.fixture(scope='module')
def document(client):
  return client.get('/openapi.json').json()


def test_the_document_names_every_path_of_the_server(client, document):
  served = {route.path for route in client.app.routes}
  assert served - FILES == set(document['paths'])
  assert document['openapi'].startswith('3.1') and document['info']['version']
  for schema in document['components']['schemas'].values():
    jsonschema.Draft202012Validator.check_schema(schema)


def test_answers_have_the_documented_schemas(run, client, document, monkeypatch):
  """The test causes every documented status of every path."""
  data = (run / 'images' / '2.png').read_bytes()
  form = {'files': [('image', ('a.png', data)), ('image', ('b.png', data))]}
  malformed = {'content-type': 'multipart/form-data; boundary=x'}
  seen = set()

  def check_content(path, method, status, media_type, content):
    described = document['paths'][path][method]['responses'][str(status)]['content']
    assert list(described) == [media_type]
    if media_type == 'application/json':
      schema = described[media_type]['schema'] | {'components': document['components']}
      jsonschema.validate(json.loads(content), schema, jsonschema.Draft202012Validator)
    seen.add((path, method, str(status)))

  def check(status, path, of='', **options):
    """Sends a GET, or a POST if there are options, and checks its answer."""
    answer = client.post(path, **options) if options else client.get(path)
    assert answer.status_code == status, answer.text
    method, media_type = 'post' if options else 'get', answer.headers['content-type']
    check_content(of or path, method, status, media_type, answer.content)
    return answer

  async def receive():
    await asyncio.sleep(3600)

  for path in ('/about', '/openapi.json'):
    check(200, path)
  for path in ('/examples/{index}', '/neighbours/{index}', '/kernels/{tower}'):
    check(200, path.replace('{index}', '1').replace('{tower}', '1'), path)
    check(404, path.replace('{index}', '99').replace('{tower}', '2'), path)
  check(200, '/predict', content=data)
  answer = check(200, '/predict?activations=1', '/predict', content=data)
  assert len(answer.json()['activations']) == 2
  check(200, '/predict', **form)
  assert len(check(200, '/predict?activations=1', '/predict', **form).json()['images']) == 2
  check(400, '/predict', content=b'', headers=malformed)
  check(403, '/predict', content=data, headers={'origin': 'http://evil.example'})
  check(413, '/predict', content=bytes((1 << 20) + 1))
  check(422, '/predict', content=b'no image')
  with monkeypatch.context() as patch:
    patch.setattr(Classifier, 'classify', lambda self, images: np.full((1, 7), np.nan))
    check(500, '/predict', content=data)
  monkeypatch.setattr(limits, 'UPLOAD_SECONDS', 0.01)
  status, body = post_slowly(client.app, receive)
  check_content('/predict', 'post', status, 'application/json', body)
  monkeypatch.setattr(limits, 'MAX_UPLOADS', 0)
  assert int(check(503, '/predict', content=data).headers['retry-after']) > 0
  documented = {
    (path, method, status)
    for path, methods in document['paths'].items()
    for method, described in methods.items()
    for status in described['responses']
  }
  assert seen == documented


def test_the_schemas_allow_no_other_answers(document):
  schemas = document['components']
  for name, wrong in (
    ('Answer', {'top': [], 'unsure': False}),
    ('Answer', {'top': [], 'unsure': False, 'neighbours': [], 'x': 1}),
    ('Answers', {'images': [{'top': [], 'unsure': False, 'neighbours': []}]}),
    ('Error', {}),
  ):
    schema = {'$ref': f'#/components/schemas/{name}', 'components': schemas}
    with pytest.raises(jsonschema.ValidationError):
      jsonschema.validate(wrong, schema, jsonschema.Draft202012Validator)
