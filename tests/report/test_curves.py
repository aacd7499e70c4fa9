"""Curves are read from metrics.jsonl."""

import json
import math

import pytest

from alexnet_jax.report import curves


def test_rows_of_a_run_that_was_killed(tmp_path):
  """An incomplete last line is ignored; an imported network has no file."""
  path = tmp_path / 'metrics.jsonl'
  assert curves.read(path) == [] and curves.draw([], 10, 0) is None
  path.write_text('{"step": 1, "loss": 2}\n{"torn')
  assert curves.read(path) == [{'step': 1, 'loss': 2}]


def test_curves():
  """Each metric has its chart, with the line of guessing; the later of equal lowest errors is the best."""
  rows = [{'epoch': s / 10, 'loss': 2.0 - s / 10, 'lr': 0.1} for s in range(1, 6)]
  rows += [{'epoch': e, 'val/top1_error': v} for e, v in ((0.3, 25.0), (0.5, 25.0), (0.6, 30.0))]
  found = curves.draw([*rows, {'epoch': 0.7, 'loss': math.nan}], 10, 0.5)
  loss, error = found['main']
  assert found['best'] == (0.5, 25.0)
  assert loss['text'] == 'Loss over 0.5 epochs: training from 1.9 to 1.5' and not loss['dot']
  assert [line['name'] for line in error['lines']] == ['validation'] and error['dot']
  assert loss['guess']['name'] == error['guess']['name'] == 'guessing'
  assert error['guess']['at'] < error['dot']['y']  # guessing is worse: 90 %
  assert error['mark'] == {'at': pytest.approx(83.33)}
  assert [chart['title'] for chart in found['more']] == ['Learning rate']
  assert json.dumps(found) == json.dumps(curves.draw(rows, 10, 0.5))
