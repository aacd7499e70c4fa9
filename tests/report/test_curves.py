"""Curves are drawn from metrics.jsonl."""

import base64
import json

from alexnet_jax.report import curves


def test_curves(tmp_path):
  """Each metric has a plot. An incomplete last line is ignored. The text has the first and the last value."""
  path = tmp_path / 'metrics.jsonl'
  assert curves.draw(path) == []
  rows = [{'step': s, 'epoch': s / 10, 'loss': 2.0 - s / 10} for s in range(1, 6)]
  path.write_text('\n'.join(map(json.dumps, rows)) + '\n{"torn')
  (picture,) = curves.draw(path)
  assert picture['alt'] == 'Loss over 0.5 epochs: training from 1.9 to 1.5'
  kind, text = picture['src'].split(',')
  assert kind == 'data:image/svg+xml;base64' and b'<svg' in base64.b64decode(text)
  assert curves.draw(path)[0]['src'] == picture['src']  # drawing again gives the same bytes
