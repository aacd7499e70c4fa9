"""A run of several processes that tests disturb, and the same run undisturbed."""

import pathlib

from tiny import main, read_metrics, write_config

# The run has 150 steps, 25 in each epoch.
OVERRIDES = {
  'mesh': (1, 2),
  'data__synthetic__train': 200,
  'train__epochs': 6.0,
  'train__checkpoint_every': 15,
}
LINES = 20  # lines of metrics.jsonl before the run is disturbed; it then has two checkpoints


def undisturbed_rows(folder: pathlib.Path) -> list[dict]:
  """Returns the rows of metrics.jsonl of an uninterrupted run in one process with two devices."""
  config = write_config(folder, **OVERRIDES)
  result = main(f'--config={config}', f'--workdir={folder / "run"}', devices=2)
  assert result.returncode == 0, result.stderr
  return read_metrics(folder / 'run')
