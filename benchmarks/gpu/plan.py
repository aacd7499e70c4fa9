"""Runs stages one after the other within a time budget, and resumes where an earlier run stopped.

A stage is a function that takes a `Context` and returns a dictionary that JSON can hold. It runs in a
separate process, so that neither an error of the device nor the memory of one stage affects another, and so
that a stage that takes too long can be stopped. It also ends when the command is killed. `OUTPUT/STAGE.json`
is written atomically when the stage ends, and the folder `OUTPUT/logs/` has its output.
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
import threading
import time
import traceback
from typing import Any

from alexnet_jax.utils import atomic_io

ROOT = pathlib.Path(__file__).resolve().parents[2]
SKIPPED = 4  # exit code of a stage that does not apply
_SOURCES = ('alexnet_jax', 'benchmarks', 'configs')  # folders whose code affects the results
_PATIENCE = 2.5  # time limit of a stage, as a multiple of its estimate
_SLACK = 10.0  # seconds that are added to the limit for the start of the process
_SMALL_PATIENCE = 40.0  # like _PATIENCE, for small stages on a machine that may have other load
_REASON_LINES = 4  # number of last lines of output that explain a failure


class Skip(Exception):
  """Raised by a stage that does not apply; the message gives the reason."""


@dataclasses.dataclass(frozen=True)
class Context:
  """The inputs of a stage.

  Attributes:
    output: the folder of all results; a stage may keep temporary files in `output / 'work'`.
    small: whether to run a small version of the stage, for a machine without a GPU.
    seconds: the time limit of the stage.
    cifar10: the source of CIFAR-10, `folder:PATH` or `store:PATH`; '' if none was given.
    arguments: the `arguments` of the `Stage`.
    settings: settings that the results of other stages must have for `result_of`.
  """

  output: pathlib.Path
  small: bool
  seconds: float
  cifar10: str = ''
  arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def result_of(self, stage: str) -> dict[str, Any] | None:
    """Returns the result of another stage; None if it has not succeeded with the same common settings."""
    record = read(self.output, stage)
    return record['result'] if record and succeeded(record, self.settings) else None


@dataclasses.dataclass(frozen=True)
class Stage:
  """A part of the benchmark.

  Attributes:
    name: the name of the stage and of its file.
    letter: the group of stages to which it belongs, for `--stages`.
    what: a description in one line.
    function: 'MODULE:FUNCTION'.
    estimate: its duration on an H100 in seconds, with compilation.
    small_estimate: the duration of its small version on two CPU cores in seconds.
    arguments: values for the function, which finds them in `context.arguments`.
    needs: names of the stages that must have succeeded before.
    uses: names of the stages that run before, and whose results it uses if they have succeeded.
    environment: additional environment variables of its process.
  """

  name: str
  letter: str
  what: str
  function: str
  estimate: float
  small_estimate: float = 15.0
  arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  needs: tuple[str, ...] = ()
  uses: tuple[str, ...] = ()
  environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


def code_version() -> str:
  """Returns the first 16 hex digits of the SHA-256 of all source files that affect the results."""
  digest = hashlib.sha256()
  for folder in _SOURCES:
    for path in sorted((ROOT / folder).rglob('*.py')):
      if path.name == 'tables.py':  # it only renders the results
        continue
      digest.update(f'{path.relative_to(ROOT)}\0'.encode() + path.read_bytes() + b'\0')
  return digest.hexdigest()[:16]


def read(output: pathlib.Path, name: str) -> dict[str, Any] | None:
  """Returns the record of a stage; None if there is none, or if the file is damaged."""
  try:
    return json.loads((output / f'{name}.json').read_text())
  except (FileNotFoundError, ValueError):
    return None


def succeeded(record: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
  """Returns whether the record of a stage is that of a success with these settings, and perhaps others."""
  return record['status'] == 'done' and settings.items() <= record['settings'].items()


def incomplete(result: Mapping[str, Any]) -> list[str]:
  """Returns, for each part that the result of a stage lacks, what it is and why."""
  parts = {**(result.get('failed') or {}), **(result.get('missing') or {})}
  return [f'without {part}: {reason}' for part, reason in parts.items()]


def short(error: Exception) -> str:
  """Returns the type and the first line of an exception, to record why a part of a stage is missing."""
  lines = str(error).strip().splitlines()
  return f'{type(error).__name__}: {lines[0] if lines else ""}'[:300]


def write(output: pathlib.Path, name: str, record: Mapping[str, Any]) -> None:
  """Writes the record of a stage atomically."""
  atomic_io.write(output / f'{name}.json', json.dumps(record, indent=1) + '\n')


def select(stages: Sequence[Stage], wanted: Sequence[str]) -> list[Stage]:
  """Returns the stages with the given names or letters, and those that they need or use, in order.

  Raises:
    ValueError: a name is unknown.
  """
  by_name = {stage.name: stage for stage in stages}
  chosen: set[str] = set()

  def add(name: str) -> None:
    if name not in chosen:
      chosen.add(name)
      for other in (*by_name[name].needs, *by_name[name].uses):
        add(other)

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
    stages: the stages, the most important first.
    output: the folder of the results.
    device: the name of the device. Results of another device are not reused.
    small: see `Context`.
    seconds: the time budget.
    cifar10: see `Context`.
    clock: returns the time in seconds; a test may pass a clock of its own.
    keep: whether to reuse results that other code has measured.
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
    keep: bool = False,
  ):
    self.stages, self.output, self.small = stages, output, small
    self.cifar10, self.clock = cifar10, clock
    self.deadline = clock() + seconds
    self.common = {'code': code_version(), 'small': small, 'device': device}
    # The settings that results must share to be reused.
    self.shared = {name: value for name, value in self.common.items() if name != 'code' or not keep}
    self.outcomes: dict[str, dict[str, Any]] = {}

  def settings(self, stage: Stage) -> dict[str, Any]:
    """Returns the settings of a stage; its result is reused only if they are the same."""
    own: dict[str, Any] = {'arguments': dict(stage.arguments)}
    if stage.letter == 'i':
      own['cifar10'] = self.cifar10
    return json.loads(json.dumps(self.common | own))

  def done(self, stage: Stage) -> dict[str, Any] | None:
    """Returns the record of a stage that has succeeded with these settings and, unless `keep`, this code."""
    record = read(self.output, stage.name)
    own = {name: v for name, v in self.settings(stage).items() if name not in self.common}
    return record if record and succeeded(record, self.shared | own) else None

  def run(self) -> int:
    """Runs every stage that fits into the budget; returns the exit code: 0, or 3 if a stage failed."""
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
      self._summarize(self.clock() - began)
    failed = self._with_status('failed')
    if failed:
      print(f'FAILED: {", ".join(failed)}', file=sys.stderr, flush=True)
    return 3 if failed else 0

  def _with_status(self, status: str) -> list[str]:
    return [name for name, outcome in self.outcomes.items() if outcome['status'] == status]

  def _summarize(self, seconds: float) -> None:
    """Writes `summary.json` about the stages so far."""
    summary = {
      **self.common,
      'seconds': round(seconds, 1),
      'failed': self._with_status('failed'),
      'kept': self._with_status('kept'),
      'stages': self.outcomes,
    }
    write(self.output, 'summary', summary)

  def _outcome(self, stage: Stage) -> dict[str, Any]:
    """Runs a stage if necessary and possible.

    Returns:
      `status` (done, reused, kept, skipped or failed) and `reason`, without which it is done.
    """
    record = self.done(stage)
    if record:
      if record['settings']['code'] == self.common['code']:
        status, reason = 'reused', 'it succeeded before with this code and these settings'
      else:
        code = record['settings']['code']
        status, reason = (
          'kept',
          f'it succeeded before with these settings, but with the code {code}',
        )
      return {'status': status, 'reason': '; '.join([reason, *incomplete(record['result'])])}
    by_name = {s.name: s for s in self.stages}
    missing = [name for name in stage.needs if name in by_name and not self.done(by_name[name])]
    if missing:
      return {
        'status': 'skipped',
        'reason': f'it needs {", ".join(missing)}, which did not succeed',
      }
    estimate = stage.small_estimate if self.small else stage.estimate
    left = self.deadline - self.clock()
    if estimate > left:
      return {
        'status': 'skipped',
        'reason': f'it takes about {estimate:.0f} s, and {max(left, 0):.0f} s are left',
      }
    return self._execute(stage, estimate, left)

  def _execute(self, stage: Stage, estimate: float, left: float) -> dict[str, Any]:
    """Runs a stage in a separate process; returns what `_outcome` returns, with the seconds."""
    patience = _SMALL_PATIENCE if self.small else _PATIENCE
    limit = min(patience * estimate + _SLACK, left)
    log, began = self.output / 'logs' / f'{stage.name}.log', self.clock()
    (self.output / f'{stage.name}.json').unlink(missing_ok=True)
    code = run_process(self._command(stage, limit), log, limit, os.environ | stage.environment)
    took = {'seconds': round(self.clock() - began, 1)}
    record = read(self.output, stage.name)
    if code == 0 and record:
      parts = incomplete(record['result'])
      return {'status': 'done', **({'reason': '; '.join(parts)} if parts else {}), **took}
    if code == SKIPPED and record:
      return {'status': 'skipped', 'reason': record['reason'], **took}
    if code is None:
      reason = f'it was stopped after {limit:.0f} s; its estimate was {estimate:.0f} s'
      if limit == left:
        return {'status': 'skipped', 'reason': f'{reason}, and the time budget was used up', **took}
    else:
      reason = f'exit code {code}: {last_lines(log)}'
    failure = {'stage': stage.name, 'status': 'failed', 'settings': self.settings(stage)}
    write(self.output, stage.name, failure | {'reason': reason})
    return {'status': 'failed', 'reason': reason, **took}

  def _command(self, stage: Stage, limit: float) -> list[str]:
    task = {
      'stage': dataclasses.asdict(stage),
      'settings': self.settings(stage),
      'shared': self.shared,
      'output': str(self.output),
      'small': self.small,
      'seconds': limit,
      'cifar10': self.cifar10,
    }
    return [sys.executable, '-m', 'benchmarks.gpu.plan', json.dumps(task)]


def run_process(
  command: list[str], log: pathlib.Path, seconds: float, env: Mapping[str, str]
) -> int | None:
  """Runs a command in the checkout and writes its output to `log`.

  When the command ends or is stopped, the processes that it started are stopped too. The standard input of
  the command ends when this process ends, even if it is killed; `end_with_parent` makes use of that.

  Returns:
    The exit code; None if the command was stopped because it took longer than `seconds`.
  """
  with log.open('w') as file:
    process = subprocess.Popen(
      command,
      cwd=ROOT,
      env=dict(env),
      stdin=subprocess.PIPE,
      stdout=file,
      stderr=file,
      start_new_session=True,
    )
    try:
      return process.wait(max(seconds, 0.1))
    except subprocess.TimeoutExpired:
      return None
    finally:
      with contextlib.suppress(ProcessLookupError):  # all processes have ended already
        os.killpg(process.pid, signal.SIGKILL)
      process.wait()
      if process.stdin:
        process.stdin.close()


def end_with_parent() -> None:
  """Kills the group of this process when its standard input ends, as when `run_process` was killed."""

  def wait() -> None:
    while os.read(0, 1):  # nothing is ever written
      pass
    os.killpg(0, signal.SIGKILL)

  threading.Thread(target=wait, daemon=True).start()


def last_lines(log: pathlib.Path) -> str:
  """Returns the last lines that a process printed, joined to one line."""
  lines = [line.strip() for line in log.read_text(errors='replace').splitlines() if line.strip()]
  return ' | '.join(lines[-_REASON_LINES:])[-600:]


def work(task: Mapping[str, Any]) -> int:
  """Calls the function of a stage and writes its record; returns the exit code of its process."""
  stage = Stage(**task['stage'])
  output = pathlib.Path(task['output'])
  context = Context(
    output, task['small'], task['seconds'], task['cifar10'], stage.arguments, task['shared']
  )
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
  # This file is the module __main__ here, but the stages raise `Skip` of the imported module.
  from benchmarks.gpu import plan

  plan.end_with_parent()
  sys.exit(plan.work(json.loads(sys.argv[1])))
