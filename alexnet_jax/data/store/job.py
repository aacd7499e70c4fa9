"""The writing of one store: its plan, its shards, and the folder that belongs to it."""

import dataclasses
import functools
import json
import os
import pathlib
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from alexnet_jax.data import keys
from alexnet_jax.data import statistics as stats
from alexnet_jax.data.decode import Canvas
from alexnet_jax.data.splits import Source, generator
from alexnet_jax.data.store import reader
from alexnet_jax.errors import UserError
from alexnet_jax.utils import atomic_io

_PLAN = 'plan.json'


@dataclasses.dataclass(frozen=True)
class Job:
  """The writing of one store.

  Attributes:
    source: the images.
    config_data: `config.data`.
    settings: `config.prepare`.
    canvas: how an image becomes a canvas.
    output: folder of the store.
  """

  source: Source
  config_data: ConfigDict
  settings: ConfigDict
  canvas: Canvas
  output: str

  @functools.cached_property
  def plan(self) -> dict[str, Any]:
    """Returns everything that determines the bytes of the store, as JSON values."""
    splits = {
      name: split for name in reader.SPLITS if (split := getattr(self.source, name)) is not None
    }
    name = self.config_data.source
    plan = {
      'version': reader.VERSION,
      'source': name,
      'canvas': self.canvas.settings(),
      **{key: self.settings[key] for key in keys.PREPARE},
      # The order of a source that is read in sequence depends on the memory that it may use.
      'shuffle': self.settings.shuffle and not self.source.train.sequential,
      'split_seed': self.config_data.split_seed,
      'images': {key: len(split) for key, split in splits.items()},
      'fingerprints': {
        key: stats.fingerprint(name, self.canvas, split) for key, split in splits.items()
      },
      'class_names': list(self.source.class_names),
    }
    return json.loads(json.dumps(plan))

  @functools.cached_property
  def shards(self) -> dict[str, int]:
    """Returns the number of shards of each split."""
    size = self.settings.shard_images
    return {split: -(-number // size) for split, number in self.plan['images'].items()}

  @property
  def all_shards(self) -> list[tuple[str, int]]:
    """Returns (split, number) of every shard."""
    return [(split, k) for split, number in self.shards.items() for k in range(number)]

  def rows(self, split: str, shard: int) -> np.ndarray:
    """Returns the images of a shard, as indices into the split of the source, int64 [n].

    Training images are shuffled once, as the original code did before it wrote them (docs/FACTS.md, section
    3), so that `config.data.shuffle=stored` can train in the stored order.
    """
    return self._rows[split][shard]

  @functools.cached_property
  def _rows(self) -> dict[str, list[np.ndarray]]:
    """Returns the images of every shard of each split; see `rows`."""
    orders = {split: np.arange(number) for split, number in self.plan['images'].items()}
    if self.plan['shuffle']:
      rng = generator(self.config_data.split_seed, 0, purpose=3)
      orders['train'] = rng.permutation(len(orders['train']))
    return {split: np.array_split(order, self.shards[split]) for split, order in orders.items()}

  def paths(self, split: str, shard: int) -> tuple[str, str]:
    """Returns the file of a shard, and the file of its index."""
    name = reader.file_name(split, shard, self.shards[split])
    index = os.path.join(self.output, reader.PARTS, f'{split}-{shard:05}.npz')
    return os.path.join(self.output, name), index

  def is_finished(self, split: str, shard: int) -> bool:
    """Returns whether a shard and its index are written."""
    return all(map(os.path.exists, self.paths(split, shard)))

  def claim_folder(self) -> None:
    """Creates the output folder for this plan, or checks that it belongs to this plan.

    Raises:
      UserError: the folder holds other files or another store, or it is not writable.
    """
    path = os.path.join(self.output, reader.PARTS, _PLAN)
    parts = os.path.dirname(path)
    check_folder(self.output)
    try:
      os.makedirs(parts, exist_ok=True)
      if os.path.exists(path):
        with open(path, encoding='utf-8') as file:
          self.check_plan(json.load(file))
      else:
        write_json(path, self.plan)
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
      raise UserError(
        f'--output={self.output} cannot be written ({error.strerror}): name another folder'
      ) from error

  def check_plan(self, stored: dict[str, Any]) -> None:
    """Raises UserError if `stored`, the plan in the output folder, differs from this plan."""
    different = [key for key in self.plan if stored.get(key) != self.plan[key]]
    if self.source.train.sequential and stored.get('shuffle'):
      different.remove('shuffle')  # earlier versions recorded the setting, which had no effect here
    if different:
      key = different[0]
      values = f' ({stored.get(key)!r} there, {self.plan[key]!r} here)'
      raise UserError(
        f'--output={self.output} holds another store, with a different {key}'
        f'{values if key != "class_names" else ""}: name another folder, or remove that one'
      )


def check_folder(output: str) -> None:
  """Checks, and writes nothing, whether a store can be begun or continued in a folder.

  Raises:
    UserError: the folder holds other files, or it is not writable.
  """
  parts = os.path.join(output, reader.PARTS)
  try:
    # Another process may make the folder of parts at any time, so it is looked for last.
    if os.path.isdir(output) and os.listdir(output) and not os.path.isdir(parts):
      raise UserError(f'--output={output} holds other files: name a new folder')
    existing = pathlib.Path(output).absolute()
    while not existing.exists():
      existing = existing.parent
  except OSError as error:
    raise UserError(
      f'--output={output} cannot be written ({error.strerror}): name another folder'
    ) from None
  if not existing.is_dir() or not os.access(existing, os.W_OK):
    raise UserError(f'--output={output}: {existing} cannot be written: name another folder')


def write_json(path: str, value: Any) -> None:
  """Writes a JSON file atomically."""
  atomic_io.write(pathlib.Path(path), json.dumps(value, indent=1))
