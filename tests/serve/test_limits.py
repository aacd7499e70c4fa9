"""The server limits the origin, the size, the duration and the number of uploads."""

import asyncio

import pytest

from alexnet_jax.serve import limits


class Request:
  """A request whose body arrives in parts, with a pause before each."""

  def __init__(self, parts, seconds=0.0):
    self._parts, self._seconds = parts, seconds
    self.received = 0

  async def stream(self):
    for part in self._parts:
      await asyncio.sleep(self._seconds)
      self.received += 1
      yield part


@pytest.mark.parametrize(
  'headers',
  [
    {},
    {'origin': 'http://localhost:8000'},
    {'origin': 'https://localhost:8000', 'sec-fetch-site': 'same-origin'},
    {'sec-fetch-site': 'none'},
  ],
)
def test_requests_of_own_pages_and_programs_are_allowed(headers):
  limits.check_origin({'host': 'localhost:8000'} | headers)


@pytest.mark.parametrize(
  'headers',
  [
    {'origin': 'http://evil.example'},
    {'origin': 'http://localhost:9000'},
    {'origin': 'http://localhost.evil.example:8000'},
    {'origin': 'null'},
    {'origin': 'http://['},
    {'sec-fetch-site': 'cross-site'},
    {'sec-fetch-site': 'same-site', 'origin': 'http://localhost:8000'},
  ],
)
def test_requests_of_other_sites_are_refused(headers):
  with pytest.raises(limits.Refused, match='another site') as refused:
    limits.check_origin({'host': 'localhost:8000'} | headers)
  assert refused.value.status == 403


def test_the_number_of_simultaneous_uploads_is_limited():
  bound = limits.Limits(10)
  entered = [bound.upload() for _ in range(limits.MAX_UPLOADS)]
  for one in entered:
    one.__enter__()
  with pytest.raises(limits.Refused, match='busy') as refused, bound.upload():
    pass
  assert refused.value.status == 503
  entered[0].__exit__(None, None, None)
  with bound.upload(), pytest.raises(limits.Refused), bound.upload():
    pass
  with bound.upload():  # a refused upload does not count
    pass


def test_a_body_is_read_up_to_the_limit():
  bound = limits.Limits(10)
  assert asyncio.run(bound.read(Request([b'12345', b'67890']))) == b'1234567890'
  request = Request([b'12345'] * 9)
  with pytest.raises(limits.Refused, match='too large') as refused:
    asyncio.run(bound.read(request))
  assert refused.value.status == 413 and request.received == 3


def test_a_slow_upload_is_cut_off(monkeypatch):
  monkeypatch.setattr(limits, 'UPLOAD_SECONDS', 0.05)
  with pytest.raises(limits.Refused, match='took longer') as refused:
    asyncio.run(limits.Limits(10).read(Request([b'1'], seconds=3600)))
  assert refused.value.status == 408


def test_the_body_of_a_refused_request_is_read_up_to_the_limit(monkeypatch):
  request = Request([b'12345'] * 9)
  asyncio.run(limits.discard(request, 12))
  assert request.received == 3
  monkeypatch.setattr(limits, 'UPLOAD_SECONDS', 0.05)
  asyncio.run(limits.discard(Request([b'1'], seconds=3600), 12))
