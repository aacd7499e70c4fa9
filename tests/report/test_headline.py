"""The top of the report: intervals, comparisons and the facts of the training."""

import datetime
from types import SimpleNamespace

import numpy as np
import pytest

from alexnet_jax import config as config_lib
from alexnet_jax.report import headline


def test_interval_of_an_error():
  """The intervals equal published values of Wilson's interval, and stay within 0 and 100."""
  # Newcombe, Statistics in Medicine 17 (1998), Table I: 81 of 263, 15 of 148, 0 of 20 and 1 of 29.
  published = (
    (81, 263, 25.53, 36.62),
    (15, 148, 6.24, 16.05),
    (0, 20, 0.0, 16.11),
    (1, 29, 0.61, 17.18),
  )
  for wrong, number, low, high in published:
    found = headline.interval(100 * wrong / number, number)
    assert found == pytest.approx((low, high), abs=0.006)
  assert headline.interval(100.0, 5)[1] == 100


def test_the_error_is_compared_with_guessing_and_baselines():
  """Guessing and the most frequent class are one bar if they are equal. The verdict uses the interval."""
  found = headline.bars(30.0, 2, 50.0, 33.0)
  assert [bar.error for bar in found] == [30.0, 50.0, 33.0] and found[0].is_run
  assert headline.verdict(found, (25.0, 35.0)) == [
    'The error is lower than that of guessing.',
    'The difference from ridge regression is within the uncertainty.',
  ]
  found = headline.bars(40.0, 4, 20.0, None)
  assert [bar.error for bar in found] == [40.0, 75.0, 20.0]
  assert headline.verdict(found, (36.0, 44.0)) == [
    'The error is lower than that of guessing.',
    'The error is higher than that of the most frequent class.',
  ]
  assert len(headline.bars(40.0, 4, None, None)) == 2
  (sentence,) = headline.verdict(headline.bars(1.0, 4, 20.0, 30.0), (0.5, 2.0))
  assert sentence.endswith('of guessing, the most frequent class and ridge regression.')


SESSION = {
  'start': '2026-11-28T23:50:00+00:00', 'device': 'AMD EPYC', 'platform': 'cpu', 'devices': 1, 'cores': 2,
  'jax': '0.10.2', 'version': '0.1.0', 'step': 0,
}  # fmt: skip


def _facts(sessions=(), written=None, **meta):
  config = config_lib.load_file('quickstart')
  kernel = np.zeros((2, 11, 11, 3, 6), np.float32)
  trained = SimpleNamespace(
    meta={'config': config, 'class_names': ['a', 'b'], 'num_train': 0, 'epoch': 3.0} | meta,
    config=config,
    step=7,
    model=SimpleNamespace(params={'conv1': {'kernel': kernel}}),
  )
  return headline.facts(trained, 'best', sessions, written)


def test_facts_of_sessions():
  """The durations of sessions add up; the time of a killed session is unknown."""
  later = SESSION | {'start': '2026-11-29T01:00:00+00:00', 'seconds': 3600.0}
  facts = _facts([SESSION | {'seconds': 330.0}, later], num_train=1500, num_validation=10)
  assert facts['trained'] == '2026-11-28 to 2026-11-29'
  assert facts['duration'] == '1 h 5 min, in 2 sessions'
  assert facts['machine'] == 'AMD EPYC, 2 processor cores'
  assert facts['software'] == 'alexnet_jax 0.1.0, JAX 0.10.2'
  assert facts['network'] == 'original, 2 towers, width 0.125' and facts['parameters'] == '4,356'
  assert facts['images'] == '1,500 training, 10 validation' and facts['seed'] == '0'
  assert facts['data set'] == 'elpv, 2 classes' and facts['checkpoint'] == 'best, step 7, epoch 3.0'
  assert _facts([SESSION, later])['duration'] == 'at least 1 h 0 min, in 2 sessions'
  gpus = SESSION | {'device': 'NVIDIA H200', 'platform': 'gpu', 'devices': 2}
  assert _facts([gpus])['machine'] == '2 x NVIDIA H200, 2 processor cores'
  assert 'duration' not in _facts([gpus])


def test_unknown_facts_are_left_out():
  """A run of an earlier version has the date of its checkpoint alone; imported weights have no date."""
  written = datetime.datetime(2026, 11, 29, 1, 13, tzinfo=datetime.UTC)
  assert _facts(written=written)['checkpoint written'] == '2026-11-29 01:13 UTC'
  assert set(_facts()) == {'network', 'parameters', 'data set', 'checkpoint', 'seed'}


def test_texts():
  assert headline.duration(59.6) == '1 min 0 s' and headline.duration(3.2) == '3 s'
  assert headline.duration(90_000) == '1 d 1 h'
