"""Runs stages one after the other, inside a time budget, and goes on where an earlier run stopped.

A stage is a function that takes a `Context` and returns a JSON-able dict. It runs in a process of its own, so
that an error of the device, or memory that one stage holds, cannot reach another, and so that a stage that
takes too long can be stopped. `OUTPUT/STAGE.json` is written whole when the stage ends, and `OUTPUT/logs/`
keeps what it printed.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import hashlib
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import traceback
from typing import Any

from alexnet_jax.utils import atomic_io

ROOT = pathlib.Path(__file__).resolve().parents[2]
SKIPPED = 4  # exit code of a stage that found that it does not apply
_SOURCES = ('alexnet_jax', 'benchmarks', 'configs')  # folders whose code decides the results
_PATIENCE = 2.5  # a stage may take so many times its estimate
_SLACK = 10.0  # and so many seconds more, to start
_SMALL_PATIENCE = 40.0  # of a small one, on a machine that may have much other work
_REASON_LINES = 4  # of what a failed stage printed last


class Skip(Exception):
  """Raised by a stage that does not apply here; the message says why."""


@dataclasses.dataclass(frozen=True)
class Context:
  """What a stage is told.

  Attributes:
    output: the folder of all results; a stage may keep temporary files in `output / 'work'`.
    small: whether to run a small version of the stage, for a machine without a GPU.
    seconds: the time that the stage may use.
    cifar10: the source of CIFAR-10, `folder:PATH` or `store:PATH`; '' where none was given.
    arguments: those of the stage.
  """

  output: pathlib.Path
  small: bool
  seconds: float
  cifar10: str = ''
  arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def result_of(self, stage: str) -> dict[str, Any] | None:
    """The result of another stage; None where it has not ended well."""
    record = read(self.output, stage)
    return record['result'] if record and record['status'] == 'done' else None


@dataclasses.dataclass(frozen=True)
class Stage:
  """A part of the benchmark.

  Attributes:
    name: of the stage and its file.
    letter: groups stages for `--stages`.
    what: one line for people.
    function: 'MODULE:FUNCTION'.
    estimate: seconds it takes on an H100, compilation included.
    small_estimate: seconds its small version takes on two CPU cores.
    arguments: what the function finds in `context.arguments`.
    needs: names of stages that must have ended well before.
    environment: variables of its process.
  """

  name: str
  letter: str
  what: str
  function: str
  estimate: float
  small_estimate: float = 15.0
  arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  needs: tuple[str, ...] = ()
  environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


def code_version() -> str:
  """The first 16 hex digits of the SHA-256 of all source files that decide the results."""
  digest = hashlib.sha256()
  for folder in _SOURCES:
    for path in sorted((ROOT / folder).rglob('*.py')):
      if path.name == 'tables.py':  # it only shows them
        continue
      digest.update(f'{path.relative_to(ROOT)}\0'.encode() + path.read_bytes() + b'\0')
  return digest.hexdigest()[:16]


def read(output: pathlib.Path, name: str) -> dict[str, Any] | None:
  """The record of a stage; None where there is none, or it is not whole."""
  try:
    return json.loads((output / f'{name}.json').read_text())
  except (FileNotFoundError, ValueError):
    return None


def write(output: pathlib.Path, name: str, record: Mapping[str, Any]) -> None:
  """Writes the record of a stage, whole or not at all."""
  atomic_io.write(output / f'{name}.json', json.dumps(record, indent=1) + '\n')


def select(stages: Sequence[Stage], wanted: Sequence[str]) -> list[Stage]:
  """The stages of the given names or letters and those that they need, in the order of `stages`.

  Raises:
    ValueError: a name is unknown.
  """
  by_name = {stage.name: stage for stage in stages}
  chosen: set[str] = set()

  def add(name: str) -> None:
    if name not in chosen:
      chosen.add(name)
      for need in by_name[name].needs:
        add(need)

  for word in wanted:
    found = [stage.name for stage in stages if word in (stage.name, stage.letter)]
    if not found:
      raise ValueError(
        f'there is no stage {word!r}: choose among {", ".join(dict.fromkeys(s.letter for s in stages))}'
        f' or {", ".join(by_name)}'
      )
    for name in found:
      add(name)
  return [stage for stage in stages if stage.name in chosen]


class Plan:
  """Runs stages within a budget.

  Args:
    stages: in the order of their worth.
    output: the folder of the results.
    device: what the machine calls its device; results of another one are not taken over.
    small: see `Context`.
    seconds: the budget.
    cifar10: see `Context`.
    clock: seconds; a test may bring its own.
  """

  def __init__(
    self,
    stages: Sequence[Stage],
    output: pathlib.Path,
    device: str,
    small: bool,
    seconds: float,
    cifar10: str = '',
    clock: Callable[[], float] = time.monotonic,
  ):
    self.stages, self.output, self.small = stages, output, small
    self.cifar10, self.clock = cifar10, clock
    self.deadline = clock() + seconds
    self.common = {'code': code_version(), 'small': small, 'device': device}
    self.outcomes: dict[str, dict[str, Any]] = {}

  def settings(self, stage: Stage) -> dict[str, Any]:
    """What a finished stage must agree with to be taken over."""
    own: dict[str, Any] = {'arguments': dict(stage.arguments)}
    if stage.letter == 'j':
      own['cifar10'] = self.cifar10
    return json.loads(json.dumps(self.common | own))

  def is_done(self, stage: Stage) -> bool:
    """Whether a stage has ended well, with these settings and this code."""
    record = read(self.output, stage.name)
    return bool(record and record['status'] == 'done') and record['settings'] == self.settings(
      stage
    )

  def run(self) -> int:
    """Runs every stage that fits; returns the exit code: 0, or 3 where one failed."""
    self.output.mkdir(parents=True, exist_ok=True)
    (self.output / 'logs').mkdir(exist_ok=True)
    began = self.clock()
    for stage in self.stages:
      outcome = self._outcome(stage)
      self.outcomes[stage.name] = outcome
      reason = f': {outcome["reason"]}' if 'reason' in outcome else ''
      print(
        f'{stage.letter} {stage.name}: {outcome["status"]}{reason}', file=sys.stderr, flush=True
      )
    failed = [name for name, outcome in self.outcomes.items() if outcome['status'] == 'failed']
    summary = {
      **self.common,
      'seconds': round(self.clock() - began, 1),
      'failed': failed,
      'stages': self.outcomes,
    }
    write(self.output, 'summary', summary)
    if failed:
      print(f'FAILED: {", ".join(failed)}', file=sys.stderr, flush=True)
    return 3 if failed else 0

  def _outcome(self, stage: Stage) -> dict[str, Any]:
    """Runs a stage, or says why not: status done, reused, skipped or failed."""
    if self.is_done(stage):
      return {'status': 'reused', 'reason': 'it has ended well before, with this code and settings'}
    by_name = {s.name: s for s in self.stages}
    missing = [name for name in stage.needs if name in by_name and not self.is_done(by_name[name])]
    if missing:
      return {'status': 'skipped', 'reason': f'it needs {", ".join(missing)}, which did not pass'}
    estimate = stage.small_estimate if self.small else stage.estimate
    left = self.deadline - self.clock()
    if estimate > left:
      return {
        'status': 'skipped',
        'reason': f'it takes about {estimate:.0f} s, and {max(left, 0):.0f} s are left',
      }
    return self._execute(stage, estimate, left)

  def _execute(self, stage: Stage, estimate: float, left: float) -> dict[str, Any]:
    """Runs a stage in a process of its own and judges how that ended."""
    patience = _SMALL_PATIENCE if self.small else _PATIENCE
    limit = min(patience * estimate + _SLACK, left)
    log, began = self.output / 'logs' / f'{stage.name}.log', self.clock()
    (self.output / f'{stage.name}.json').unlink(missing_ok=True)
    code = run_process(self._command(stage, limit), log, limit, os.environ | stage.environment)
    took = {'seconds': round(self.clock() - began, 1)}
    record = read(self.output, stage.name)
    if code == 0 and record:
      return {'status': 'done', **took}
    if code == SKIPPED and record:
      return {'status': 'skipped', 'reason': record['reason'], **took}
    if code is None:
      reason = f'it was stopped after {limit:.0f} s; its estimate was {estimate:.0f} s'
      if limit == left:
        return {'status': 'skipped', 'reason': f'{reason}, and the time was up', **took}
    else:
      reason = f'exit code {code}: {last_lines(log)}'
    failure = {'stage': stage.name, 'status': 'failed', 'settings': self.settings(stage)}
    write(self.output, stage.name, failure | {'reason': reason})
    return {'status': 'failed', 'reason': reason, **took}

  def _command(self, stage: Stage, limit: float) -> list[str]:
    task = {
      'stage': dataclasses.asdict(stage),
      'settings': self.settings(stage),
      'output': str(self.output),
      'small': self.small,
      'seconds': limit,
      'cifar10': self.cifar10,
    }
    return [sys.executable, '-m', 'benchmarks.gpu.plan', json.dumps(task)]


def run_process(
  command: list[str], log: pathlib.Path, seconds: float, env: Mapping[str, str]
) -> int | None:
  """Runs a command in the checkout, its output to `log`; its exit code, or None where it was stopped.

  When it ends, or is stopped, the processes that it started are stopped too.
  """
  with log.open('w') as file:
    process = subprocess.Popen(
      command, cwd=ROOT, env=dict(env), stdout=file, stderr=file, start_new_session=True
    )
    try:
      return process.wait(max(seconds, 0.1))
    except subprocess.TimeoutExpired:
      return None
    finally:
      with contextlib.suppress(ProcessLookupError):  # all have ended
        os.killpg(process.pid, signal.SIGKILL)
      process.wait()


def last_lines(log: pathlib.Path) -> str:
  """The last lines that a process printed, joined."""
  lines = [line.strip() for line in log.read_text(errors='replace').splitlines() if line.strip()]
  return ' | '.join(lines[-_REASON_LINES:])[-600:]


def work(task: Mapping[str, Any]) -> int:
  """What the process of a stage does: calls its function and writes its record."""
  stage = Stage(**task['stage'])
  output = pathlib.Path(task['output'])
  context = Context(output, task['small'], task['seconds'], task['cifar10'], stage.arguments)
  module, function = stage.function.split(':')
  record = {'stage': stage.name, 'letter': stage.letter, 'what': stage.what}
  record['settings'] = task['settings']
  began = time.monotonic()
  try:
    result = getattr(importlib.import_module(module), function)(context)
  except Skip as skip:
    write(output, stage.name, record | {'status': 'skipped', 'reason': str(skip)})
    return SKIPPED
  except Exception:
    traceback.print_exc()
    return 1
  seconds = round(time.monotonic() - began, 1)
  write(output, stage.name, record | {'status': 'done', 'seconds': seconds, 'result': result})
  return 0


if __name__ == '__main__':
  # This file runs as __main__ here, and the stages raise the Skip of the module that they import.
  from benchmarks.gpu import plan

  sys.exit(plan.work(json.loads(sys.argv[1])))
