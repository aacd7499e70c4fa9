"""Forms of browsers and curl are read; malformed and large ones are refused."""

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from alexnet_jax.serve import forms
from alexnet_jax.serve.limits import Refused

TYPE = 'multipart/form-data; boundary=b'


def part(name, content=b'x', boundary=b'b'):
  """Returns a part of a form as browsers and curl write it."""
  head = (
    f'Content-Disposition: form-data; name="image"; filename="{name}"\r\nContent-Type: image/png'
  )
  return b'--' + boundary + b'\r\n' + head.encode() + b'\r\n\r\n' + content + b'\r\n'


MALFORMED_NAMES = ("idna''x%ff", "undefined''x", "punycode''x%ff", "a\0b''x")


def starred(name):
  """Returns a form whose only part has an encoded file name (RFC 5987)."""
  return f'--b\r\nContent-Disposition: form-data; filename*={name}\r\n\r\nx\r\n--b--'.encode()


def read(body, content_type=TYPE):
  return [(name, bytes(content)) for name, content in forms.files(body, content_type)]


@pytest.mark.parametrize(
  ('content_type', 'expected'),
  [
    ('multipart/form-data; boundary=b', True),
    ('Multipart/Form-Data;boundary="b"', True),
    ('application/x-www-form-urlencoded', False),
    ('image/png', False),
    ('', False),
  ],
)
def test_forms_are_recognised(content_type, expected):
  assert forms.is_form(content_type) == expected


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=forms.MAX_PARTS))
def test_files_are_returned_byte_for_byte(contents):
  boundary = b'-' * 24 + b'5e7ba1'
  body = b''.join(part(f'{i}.png', data, boundary) for i, data in enumerate(contents))
  body += b'--' + boundary + b'--\r\n'
  expected = [(f'{i}.png', data) for i, data in enumerate(contents)]
  assert read(body, f'multipart/form-data; boundary={boundary.decode()}') == expected


def test_other_parts_are_left_out_and_names_are_decoded():
  field = b'--b\r\nContent-Disposition: form-data; name="note"\r\n\r\nhello\r\n'
  empty = part('')  # a browser sends this for an input without a file
  body = b'preamble\r\n' + field + part('Grüße.png', b'\r\n--') + empty + b'--b--\r\nepilogue'
  assert read(body) == [('Grüße.png', b'\r\n--')]
  quoted = part('a.png', boundary=b'x y') + b'--x y--'
  assert read(quoted, 'multipart/form-data; boundary="x y"') == [('a.png', b'x')]
  padded = part('a.png').replace(b'--b\r\n', b'--b \t\r\n') + b'--b--'
  assert read(padded) == [('a.png', b'x')]


@pytest.mark.parametrize(
  ('body', 'content_type', 'status', 'message'),
  [
    (part('a') + b'--b--', 'multipart/form-data', 400, 'no boundary'),
    (part('a') + b'--b--', 'multipart/form-data; boundary=\u00fc', 400, 'no boundary'),
    (part('a') + b'--b--', 'multipart/form-data; boundary=c', 400, 'not contain its boundary'),
    (b'', TYPE, 400, 'not contain its boundary'),
    (part('a'), TYPE, 400, 'malformed or incomplete'),
    (b'--b', TYPE, 400, 'malformed or incomplete'),
    (b'--b\r\n', TYPE, 400, 'malformed or incomplete'),
    (b'--b\r\nno empty line\r\n--b--', TYPE, 400, 'malformed or incomplete'),
    (b'--bb\r\n\r\n\r\n--b--', TYPE, 400, 'malformed or incomplete'),
    (part('a' * 5000) + b'--b--', TYPE, 400, 'malformed or incomplete'),
    (part('a') + b'--b--', f'{TYPE}; x={";" * 300}', 400, 'Content-Type header is too long'),
    (b'', "multipart/form-data; boundary*=idna''X", 400, 'headers cannot be read'),
    (b'', "multipart/form-data; boundary*=a''X; boundary*0=b", 400, 'headers cannot be read'),
    *((starred(name), TYPE, 400, 'headers cannot be read') for name in MALFORMED_NAMES),
    (b'--b--', TYPE, 400, 'no file'),
    (b'--b\r\n\r\nhello\r\n--b--', TYPE, 400, 'no file'),
    (part('a') * (forms.MAX_PARTS + 1) + b'--b--', TYPE, 413, 'at most 16'),
    (part('') * (forms.MAX_PARTS + 1) + b'--b--', TYPE, 413, 'at most 16'),
  ],
)
def test_malformed_forms_are_refused(body, content_type, status, message):
  with pytest.raises(Refused, match=message) as refused:
    forms.files(body, content_type)
  assert refused.value.status == status


PIECES = [b'--b', b'\r\n', b'--', b'\r', b'Content-Disposition: form-data; ', b'filename="a', b'";']
PIECES += [b"filename*=utf-8''%", b"filename*0*=x''", b':', b'\xff', b'=?utf-8?q?']


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES)))
def test_any_bytes_give_files_or_a_refusal(pieces):
  try:
    forms.files(b'--b\r\n' + b''.join(pieces) + b'\r\n--b--', TYPE)
  except Refused as error:
    assert error.status in (400, 413)
