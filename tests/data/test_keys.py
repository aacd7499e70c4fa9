"""The declared values of `config.data` and `config.prepare` agree with the code that reads them."""

from alexnet_jax.data import decode, keys, order
from alexnet_jax.data.store import reader
from alexnet_jax.utils import schema


def test_declared_values_are_those_of_the_code():
  assert keys.CANVAS['filter'].choices == tuple(decode.FILTERS)
  assert keys.DATA['shuffle'].choices == order.SHUFFLES
  assert keys.PREPARE['format'].choices == reader.FORMATS


def test_defaults_are_those_of_the_code():
  assert decode.Canvas()._asdict() == schema.defaults(keys.CANVAS)
