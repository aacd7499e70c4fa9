"""The top of the page: the error beside those of guessing and of baselines, and facts of the training."""

from collections.abc import Mapping, Sequence
import datetime
import math
from typing import Any, NamedTuple

import jax

from alexnet_jax.data import sources
from alexnet_jax.evaluation.loading import Trained

_Z = 1.96  # of a 95 % interval
_SAME = 0.05  # per cent; errors that differ by less are shown as one bar


class Bar(NamedTuple):
  """One bar.

  Attributes:
    name: what has this error, as part of a sentence.
    label: the same beside the bar.
    error: top-1 error in per cent.
    is_run: whether it is the run of the report.
  """

  name: str
  label: str
  error: float
  is_run: bool = False


def interval(error: float, examples: int) -> tuple[float, float]:
  """Returns the 95 % interval of an error that was measured on `examples` images, all in per cent.

  It is that of Wilson (Journal of the American Statistical Association 22, 1927).
  """
  share, square = error / 100, _Z**2
  centre = (share + square / (2 * examples)) / (1 + square / examples)
  spread = math.sqrt(share * (1 - share) / examples + square / (4 * examples**2))
  half = _Z * spread / (1 + square / examples)
  return 100 * max(centre - half, 0.0), 100 * min(centre + half, 1.0)


def bars(
  error: float, classes: int, majority: float | None, baseline: float | None
) -> tuple[Bar, ...]:
  """Returns the run and what it is compared with, in this order.

  Args:
    error: top-1 error of the run, in per cent.
    classes: number of classes.
    majority: that of the most frequent class, or None.
    baseline: that of ridge regression, or None.
  """
  chance, frequent = 100 - 100 / classes, 'always the most frequent class'
  found = [Bar('this network', 'this network', error, True)]
  if majority is not None and abs(majority - chance) < _SAME:
    found.append(Bar('guessing', f'guessing, or {frequent}', majority))
  else:
    found.append(Bar('guessing', 'guessing', chance))
    if majority is not None:
      found.append(Bar('the most frequent class', frequent, majority))
  if baseline is not None:
    found.append(Bar('ridge regression', 'ridge regression on 16x16 pixels', baseline))
  return tuple(found)


def verdict(found: Sequence[Bar], within: tuple[float, float]) -> list[str]:
  """Returns sentences that say which of the other bars lie outside the interval of the first."""
  low, high = within
  others = found[1:]
  parts = (
    ('The error is lower than that of {}.', [bar.name for bar in others if bar.error > high]),
    (
      'The difference from {} is within the uncertainty.',
      [bar.name for bar in others if low <= bar.error <= high],
    ),
    ('The error is higher than that of {}.', [bar.name for bar in others if bar.error < low]),
  )
  return [
    text.format(' and '.join(filter(None, (', '.join(names[:-1]), names[-1]))))
    for text, names in parts
    if names
  ]


def facts(
  trained: Trained, which: str, sessions: Sequence[Mapping[str, Any]], written: Any
) -> dict[str, str]:
  """Returns what is known of the network and its training, as {name: text}; unknown facts are left out.

  Args:
    trained: the checkpoint, with its metadata.
    which: the requested checkpoint: best, latest or a step.
    sessions: those of the run, as `workdir.sessions.read` returns them.
    written: the time at which the checkpoint was written, a `datetime`, or None.
  """
  meta, own = trained.meta, trained.meta['config']
  found = {
    'network': f'{own.recipe}{_shape(trained)}',
    'parameters': f'{sum(leaf.size for leaf in jax.tree.leaves(trained.model.params)):,}',
    'data set': f'{sources.short_name(own.data.source)}, {len(meta["class_names"]):,} classes',
  }
  if meta['num_train']:  # unknown for an imported network
    found['images'] = f'{meta["num_train"]:,} training, {meta["num_validation"]:,} validation'
  if sessions:
    found |= _of_sessions(sessions)
  elif written is not None:
    found['checkpoint written'] = f'{written:%Y-%m-%d %H:%M} UTC'
  name = '' if which.isdigit() else f'{which}, '
  average = ', moving average of the weights' if trained.config.eval.weights == 'ema' else ''
  return found | {
    'checkpoint': f'{name}step {trained.step:,}, epoch {meta["epoch"]:.1f}{average}',
    'seed': str(own.seed),
  }


def duration(seconds: float) -> str:
  """Returns a duration in its two largest units: `2 h 5 min`."""
  whole = round(seconds)
  for unit, size, smaller, part in (('d', 86_400, 'h', 3600), ('h', 3600, 'min', 60)):
    if whole >= size:
      return f'{whole // size} {unit} {whole % size // part} {smaller}'
  return f'{whole // 60} min {whole % 60} s' if whole >= 60 else f'{whole} s'


def _shape(trained: Trained) -> str:
  """Returns the number of towers and the width, as far as they are not 1."""
  params, width = trained.model.params, trained.config.model.width
  towers = params['conv1']['kernel'].shape[0] if 'conv1' in params else 1
  return f', {towers} towers' * (towers > 1) + f', width {width:g}' * (width != 1)


def _of_sessions(sessions: Sequence[Mapping[str, Any]]) -> dict[str, str]:
  """Returns the date, duration, machine and versions of the training. Most are those of the last session."""
  last = sessions[-1]
  starts = [datetime.datetime.fromisoformat(session['start']) for session in sessions]
  seconds = [session['seconds'] for session in sessions if 'seconds' in session]
  first, final = starts[0].date().isoformat(), starts[-1].date().isoformat()
  found = {'trained': first if first == final else f'{first} to {final}'}
  if seconds:
    is_part = 'at least ' if len(seconds) < len(sessions) else ''
    times = f', in {len(sessions)} sessions' if len(sessions) > 1 else ''
    found['duration'] = f'{is_part}{duration(sum(seconds))}{times}'
  devices, cores = last['devices'], last['cores']
  cpu_alone = last['platform'] == 'cpu'
  several = f'{devices} x ' if devices > 1 and not cpu_alone else ''
  found['machine'] = f'{several}{last["device"]}, {cores} processor core{"s" if cores > 1 else ""}'
  found['software'] = f'alexnet_jax {last["version"]}, JAX {last["jax"]}'
  return found
