"""The metrics of two training steps equal recorded ones, unless the training code is changed on purpose.

`golden_metrics.jsonl` holds the lines of metrics.jsonl. To record them again after an intended change, run
`python tests/training/test_golden.py`.
"""

import json
import pathlib
import sys
import tempfile

import jax
import pytest

ROOT = pathlib.Path(__file__).parents[2]
if __name__ == '__main__':
  sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

from tiny import read_metrics, tiny_config  # noqa: E402

from alexnet_jax.training import hooks  # noqa: E402
from alexnet_jax.training.loop import train  # noqa: E402

FILE = pathlib.Path(__file__).with_name('golden_metrics.jsonl')
# Other processors add in another order, which changes the sixth digit after two steps.
RELATIVE, ABSOLUTE = 1e-3, 1e-6


def metrics(workdir: pathlib.Path) -> list[dict]:
  """Returns the metrics of two steps of the recipe `original`, with layer statistics and an evaluation."""
  config = tiny_config(train__steps=2, train__log_every=1, train__diagnose_every=2)
  train(config, workdir)
  return read_metrics(workdir)


def test_two_steps_give_the_recorded_metrics(tmp_path):
  expected = [json.loads(line) for line in FILE.read_text().splitlines()]
  found = metrics(tmp_path)
  assert [row.keys() for row in found] == [row.keys() for row in expected]
  for row, recorded in zip(found, expected, strict=True):
    assert row == pytest.approx(recorded, rel=RELATIVE, abs=ABSOLUTE)


def test_nothing_is_compiled_after_the_first_epoch(tmp_path, monkeypatch):
  """Log lines, layer statistics, evaluations, checkpoints and a new rate reuse the compiled functions."""
  compiled, after_epoch = [], []

  def count(event, _, **__):
    if event == '/jax/core/compile/backend_compile_duration':
      compiled.append(event)

  save = hooks.Save.__call__

  def save_and_count(self, *args):
    save(self, *args)
    after_epoch.append(len(compiled))

  monkeypatch.setattr(hooks.Save, '__call__', save_and_count)
  jax.monitoring.register_event_duration_secs_listener(count)
  try:
    config = tiny_config(
      train__epochs=3.0,
      train__checkpoint_every=5,
      train__diagnose_every=2,
      optim__boundaries=(2.0,),
      model__layers=('conv1', 'fc6', 'fc8'),
    )
    train(config, tmp_path)
  finally:
    jax.monitoring.unregister_event_duration_listener(count)
  rates = {row['lr'] for row in read_metrics(tmp_path) if 'lr' in row}
  assert len(rates) == 2 and len(after_epoch) == 3
  assert 0 < after_epoch[0] == after_epoch[1] == after_epoch[2]


if __name__ == '__main__':
  with tempfile.TemporaryDirectory() as folder:
    rows = metrics(pathlib.Path(folder))
  FILE.write_text(''.join(json.dumps(row) + '\n' for row in rows))
