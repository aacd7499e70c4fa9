"""Breaks real runs on purpose, many times, and compares them with one that nothing disturbed.

`python -m tests.faults --rounds=200 --seed=0` is the campaign, `--controls` shows that it has teeth,
`python -m tests.faults.fuzz` throws broken images and configs at the commands.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # for tiny and helpers
