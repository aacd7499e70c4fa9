"""The description of the HTTP interface that the server offers at /openapi.json, as OpenAPI 3.1."""

from typing import Any

from alexnet_jax.serve import forms, limits
from alexnet_jax.version import __version__

_STRING, _NUMBER, _INTEGER, _BOOLEAN = (
  {'type': kind} for kind in ('string', 'number', 'integer', 'boolean')
)
_PROBABILITY = {'type': 'number', 'minimum': 0, 'maximum': 1}
_STRINGS = {'type': 'array', 'items': _STRING}

Schema = dict[str, Any]


def _object(**properties: Schema) -> Schema:
  """Returns the schema of an object that has exactly these properties."""
  return {
    'type': 'object',
    'properties': properties,
    'required': list(properties),
    'additionalProperties': False,
  }


def _optional(schema: Schema, **properties: Schema) -> Schema:
  """Adds properties that may be absent to the schema of an object."""
  return schema | {'properties': schema['properties'] | properties}


def _list(items: Schema, description: str) -> Schema:
  return {'type': 'array', 'items': items, 'description': description}


def _ref(name: str) -> Schema:
  return {'$ref': f'#/components/schemas/{name}'}


def _or_null(schema: Schema, description: str) -> Schema:
  return {'anyOf': [schema, {'type': 'null'}], 'description': description}


_ANSWER = _optional(
  _object(
    top=_list(_ref('Guess'), 'The most probable classes, at most five, the most probable first.'),
    unsure=_BOOLEAN | {'description': 'Whether the rule in /about calls the answer unsure.'},
    neighbours=_list(_ref('Neighbour'), 'The most similar images; none without --features.'),
  ),
  activations=_list(
    _STRING,
    'The maps of the first layer of each tower, as a data URL of a PNG. Each map is scaled to its '
    'own range. Present if the query asks for it.',
  ),
)

_ABOUT = _object(
  recipe=_STRING,
  architecture=_STRING,
  layers=_STRINGS,
  towers=_INTEGER,
  width=_NUMBER | {'description': 'Factor of the numbers of features, as in config.model.width.'},
  input_size=_INTEGER | {'description': 'Side of the image that the network reads, in pixels.'},
  parameters=_INTEGER,
  kernels=_INTEGER | {'description': 'Kernels in the first layer of each tower.'},
  data=_STRING | {'description': 'Name of the training data.'},
  training_images=_or_null(_INTEGER, 'Their number, if it is known.'),
  checkpoint=_INTEGER | {'description': 'Training step of the weights.'},
  weights=_STRING | {'description': 'last, or ema for the moving average.'},
  views=_INTEGER | {'description': 'Views of each image whose predictions are averaged.'},
  classes=_STRINGS,
  validation=_or_null(
    _object(top1_error=_NUMBER, images=_INTEGER, views=_INTEGER, data=_STRING),
    'The error in per cent on validation images; null if it was not measured.',
  ),
  unsure=_object(probability=_PROBABILITY, margin=_PROBABILITY)
  | {
    'description': 'An answer is called unsure if its first probability is below `probability`, or '
    'exceeds the second by less than `margin`.'
  },
  examples=_list(_object(index=_INTEGER, label=_STRING), 'Validation images to try.'),
  neighbours_among=_INTEGER | {'description': 'Images among which neighbours are searched.'},
  exif_orientation=_BOOLEAN | {'description': 'Whether photographs are turned upright.'},
  max_bytes=_INTEGER | {'description': 'Largest upload in bytes.'},
  max_pixels=_INTEGER | {'description': 'Largest image, width times height.'},
)

_SCHEMAS = {
  'About': _ABOUT,
  'Answer': _ANSWER,
  'Answers': _object(
    images=_list(
      _ANSWER
      | {
        'properties': {'name': _STRING} | _ANSWER['properties'],
        'required': ['name', *_ANSWER['required']],
      },
      'One answer for each file, in order.',
    )
  ),
  'Error': _object(error=_STRING | {'description': 'The reason, in one line.'}),
  'Guess': _object(label=_STRING, probability=_PROBABILITY),
  'Neighbour': _object(
    index=_INTEGER,
    name=_STRING,
    label=_or_null(_STRING, 'The class that the folder of the image is named after.'),
    distance=_NUMBER | {'description': 'Euclidean distance of the features.'},
  ),
}


def _response(description: str, media_type: str, schema: Schema | None = None) -> Schema:
  return {'description': description, 'content': {media_type: {'schema': schema or {}}}}


def _error(description: str) -> Schema:
  return _response(description, 'application/json', _ref('Error'))


def _picture(summary: str, parameter: str, kind: str) -> Schema:
  """Returns the description of a path whose last part is an index."""
  index = {'name': parameter, 'in': 'path', 'required': True, 'schema': _INTEGER | {'minimum': 0}}
  responses = {'200': _response('The picture.', kind), '404': _error('There is no such picture.')}
  return {'get': {'summary': summary, 'parameters': [index], 'responses': responses}}


def _predict(max_bytes: int) -> Schema:
  """Returns the description of /predict."""
  file = {'type': 'string', 'format': 'binary'}
  form = {'type': 'object', 'properties': {'image': {'type': 'array', 'items': file}}}
  size = f'at most {max_bytes} bytes'
  retry = {'Retry-After': {'description': 'Seconds to wait.', 'schema': _INTEGER}}
  activations = {
    'name': 'activations',
    'in': 'query',
    'description': '1 adds pictures of the maps of the first layer.',
    'schema': {'enum': ['0', '1'], 'default': '0'},
  }
  return {
    'summary': 'Classify an image, or several',
    'description': f'The body is the file itself, or a form with up to {forms.MAX_PARTS} files; '
    f'{size} in all. The formats are JPEG, PNG, GIF, BMP, WebP and TIFF. If a file of a form '
    'cannot be read, the error names it, and no file is answered.',
    'parameters': [activations],
    'requestBody': {
      'required': True,
      'content': {'*/*': {'schema': {}}, 'multipart/form-data': {'schema': form}},
    },
    'responses': {
      '200': _response(
        'Answer for a file, Answers for a form.',
        'application/json',
        {'oneOf': [_ref('Answer'), _ref('Answers')]},
      ),
      '400': _error('The form is malformed.'),
      '403': _error('The request comes from a page of another site.'),
      '408': _error(f'The upload took longer than {limits.UPLOAD_SECONDS} seconds.'),
      '413': _error(f'The upload is too large ({size}), or the form has too many parts.'),
      '422': _error('A file is not a readable image, or has too many pixels or scans.'),
      '500': _error('The network computes numbers that are not finite.'),
      '503': _error('The server is busy, or is stopping.') | {'headers': retry},
    },
  }


def document(max_bytes: int) -> dict[str, Any]:
  """Returns the OpenAPI document.

  Args:
    max_bytes: largest size of an upload.
  """
  about = {'200': _response('The network.', 'application/json', _ref('About'))}
  own = {'200': _response('This document.', 'application/json', {'type': 'object'})}
  kernels = 'Return the kernels of the first layer of a tower'
  return {
    'openapi': '3.1.0',
    'info': {
      'title': 'alexnet_jax --mode=serve',
      'version': __version__,
      'description': 'Classifies images with one trained network.',
    },
    'paths': {
      '/about': {'get': {'summary': 'Describe the network', 'responses': about}},
      '/predict': {'post': _predict(max_bytes)},
      '/examples/{index}': _picture('Return an example image', 'index', 'image/png'),
      '/neighbours/{index}': _picture('Return a similar image', 'index', 'image/jpeg'),
      '/kernels/{tower}': _picture(kernels, 'tower', 'image/png'),
      '/openapi.json': {'get': {'summary': 'Return this document', 'responses': own}},
    },
    'components': {'schemas': _SCHEMAS},
  }
