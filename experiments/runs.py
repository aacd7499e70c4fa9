"""Starts runs of main.py, one or several at a time, and records them in a file of results.

The programs of this folder share this module. Paths are relative to the checkout, where main.py is
started. A file of results is JSON. It holds the summary that its program computes, and `runs`: for
each run the command, the duration, the date, the hardware, the versions and the commits.
"""

import argparse
from collections.abc import Callable, Hashable, Iterable
import concurrent.futures
import datetime
import importlib.metadata
import itertools
import json
import os
import pathlib
import platform
import shlex
import signal
import subprocess
import sys
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent
USER_ERROR, PREEMPTED = 2, 75  # main.py's exit codes; after the second the same command resumes
PACKAGES = ('jax', 'flax', 'optax', 'numpy')


class Refused(Exception):
  """The command cannot be carried out; the message names the remedy."""


def seed_list(text: str) -> list[int]:
  """Parses a list of numbers such as 0,1,2."""
  try:
    return [int(number) for number in text.split(',')]
  except ValueError:
    raise argparse.ArgumentTypeError(f'{text!r} is not a list of numbers such as 0,1,2') from None


def number(text: str) -> int:
  """Parses a whole number of at least one."""
  if not text.isdecimal() or not int(text):
    raise argparse.ArgumentTypeError(f'{text!r} is not 1 or more')
  return int(text)


def parser(description: str, *names: str, jobs: bool = True) -> argparse.ArgumentParser:
  """Returns a parser that requires the flags `names`, and knows --jobs if `jobs` is set."""
  made = argparse.ArgumentParser(
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  for name in names:
    made.add_argument(f'--{name}', required=True, type=seed_list if name == 'seeds' else str)
  if jobs:
    made.add_argument('--jobs', type=number, default=1, help='runs at a time (on CPUs)')
  return made


def hardware() -> str:
  """Returns the name of the processor, the number of usable cores, and the accelerators.

  A separate process asks JAX, because the process that initialises JAX reserves the accelerator.
  """
  cpuinfo = pathlib.Path('/proc/cpuinfo')
  lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
  names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
  ask = 'import jax; print(", ".join(sorted({device.device_kind for device in jax.devices()})))'
  kinds = subprocess.run([sys.executable, '-c', ask], stdout=subprocess.PIPE, text=True, check=True)
  cpu = names[0] if names else platform.processor()
  return f'{cpu}, {len(os.sched_getaffinity(0))} cores; JAX on {kinds.stdout.strip()}'


def commit() -> str | None:
  """Returns the commit, followed by "changed" if files differ from it; None without git."""
  ask = ['git', 'describe', '--always', '--abbrev=40', '--exclude=*', '--dirty= changed']
  try:
    status = subprocess.run(ask, cwd=ROOT, capture_output=True, text=True)
  except FileNotFoundError:
    return None
  return status.stdout.strip() or None


def circumstances() -> dict:
  """Returns the date, the hardware, the versions of packages and the commit."""
  return {
    'date': datetime.date.today().isoformat(),
    'hardware': hardware(),
    'versions': {name: importlib.metadata.version(name) for name in PACKAGES},
    'commits': [commit()],
  }


def gone_on(before: dict, seconds: float, on: dict) -> dict:
  """Adds `seconds` and the commit to the record `before` of a run; {} for a new run."""
  commits = dict.fromkeys([*before.get('commits', []), *on['commits']])
  return {'seconds': round(before.get('seconds', 0) + seconds), **on, 'commits': list(commits)}


def flags_of(command: str) -> list[dict[str, str]]:
  """Returns the flags of each call in a command joined by `&&`; the last of repeated flags counts."""
  calls = command.split(' && ')
  return [dict(word.partition('=')[::2] for word in shlex.split(call)) for call in calls]


def refuse(overrides: Iterable[str], *keys: str) -> None:
  """Raises Refused if an override sets one of the config keys that the program sets itself."""
  for override in overrides:
    name = override.partition('=')[0].removeprefix('--config.')
    if name in keys:
      raise Refused(f'{override}: the program sets this key itself; leave it out')


def known(
  output: str, command: Callable[[dict], str], is_result: Callable[[dict], bool]
) -> list[dict]:
  """Returns the runs of a file of results; none if there is no file.

  An unfinished run of another command is left out, so that it is run again.

  Args:
    output: the file.
    command: the command by which a run of the file would be made now.
    is_result: whether a run is finished.

  Raises:
    Refused: a finished run was made by another command, or the file is no file of results or belongs to
      another program.
  """
  path, found = ROOT / output, []
  try:
    runs = json.loads(path.read_text())['runs'] if path.exists() else []
  except (ValueError, KeyError, TypeError):
    raise Refused(
      f'{output} is not a file of results: name another --output, or remove it'
    ) from None
  for run in runs:
    try:
      theirs, ours = (flags_of(line) for line in (run['command'], command(run)))
      binds = is_result(run)
    except KeyError:
      raise Refused(f'{output} belongs to another program: name another --output') from None
    if theirs == ours:
      found.append(run)
    elif binds:
      pairs = itertools.zip_longest(theirs, ours, fillvalue={})
      one, other = next(pair for pair in pairs if pair[0] != pair[1])
      raise Refused(
        f'{output} has a run that was made with other options (there: {_apart(one, other)}; now: '
        f'{_apart(other, one)}): give the same ones, or name another --output and --workdir'
      )
  return found


def _apart(flags: dict[str, str], others: dict[str, str]) -> str:
  """Returns the flags that `others` lack or have with another value."""
  own = sorted(name for name in flags if others.get(name) != flags[name])
  return ', '.join(f'{name}={flags[name]}' if flags[name] else name for name in own) or 'none'


def write(output: str, result: dict, runs: list[dict]) -> None:
  """Writes a file of results atomically; creates its folder."""
  path = ROOT / output
  path.parent.mkdir(parents=True, exist_ok=True)
  whole = {
    'command': shlex.join(
      ['python', f'experiments/{pathlib.Path(sys.argv[0]).name}', *sys.argv[1:]]
    )
  }
  beside = path.with_name(f'{path.name}.part')
  beside.write_text(json.dumps(whole | result | {'runs': runs}, indent=2) + '\n')
  os.replace(beside, path)


def as_command(arguments: list[str]) -> str:
  """Returns the command line of a call of main.py."""
  return shlex.join(['python', 'main.py', *arguments])


class Ended(NamedTuple):
  """The result of the calls of main.py for one run.

  Attributes:
    code: the exit code of the last call; no call follows a failure.
    said: the last line of its log.
    answers: the JSON on the last line of stdout of each successful call.
    seconds: the duration of all calls.
  """

  code: int
  said: str
  answers: list[dict]
  seconds: float


class Runner:
  """Starts up to `jobs` runs at a time; forwards SIGTERM and SIGINT, after which it starts no other run."""

  def __init__(self, jobs: int):
    self._futures: dict[concurrent.futures.Future, Hashable] = {}
    self._jobs, self._pool = jobs, concurrent.futures.ThreadPoolExecutor(jobs)
    self._processes: set[subprocess.Popen] = set()
    self.stopping = False
    for which in (signal.SIGTERM, signal.SIGINT):
      signal.signal(which, lambda *_: self.stop())

  @property
  def going(self) -> list[Hashable]:
    """Returns the keys of the runs in progress."""
    return list(self._futures.values())

  @property
  def free(self) -> int:
    """Returns the number of runs that can be started now."""
    return 0 if self.stopping else self._jobs - len(self._futures)

  def stop(self) -> None:
    """Stops all runs, which write a checkpoint, and starts no other."""
    self.stopping = True
    for process in list(self._processes):
      process.send_signal(signal.SIGTERM)

  def start(self, key: Hashable, *calls: list[str]) -> None:
    """Starts or resumes a run: calls of main.py, one after the other."""
    self._futures[self._pool.submit(self._run, calls)] = key

  def wait(self) -> list[tuple[Hashable, Ended]]:
    """Waits until at least one run has ended and returns the ended runs."""
    done = concurrent.futures.wait(self._futures, return_when='FIRST_COMPLETED').done
    return [(self._futures.pop(future), future.result()) for future in done]

  def _run(self, calls: tuple[list[str], ...]) -> Ended:
    began, answers = time.monotonic(), []
    for arguments in calls:
      code, said, answer = self._call(arguments)
      if code:
        break
      answers.append(json.loads(answer))
    return Ended(code, said, answers, time.monotonic() - began)

  def _call(self, arguments: list[str]) -> tuple[int, str, str]:
    """Returns the exit code, the last line of the log and the last line on stdout."""
    print(as_command(arguments), file=sys.stderr)
    folders = [word.partition('=')[2] for word in arguments if word.startswith('--workdir=')]
    name = '/'.join(pathlib.Path(folders[0]).parts[-2:]) if folders else 'average'
    with subprocess.Popen(
      [sys.executable, 'main.py', *arguments],
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      start_new_session=True,  # so that Ctrl-C reaches it only through `stop`
      text=True,
    ) as process:
      self._processes.add(process)
      if self.stopping:
        process.send_signal(signal.SIGTERM)
      said = ''
      for said in process.stderr:
        print(f'{name}: {said}' if self._jobs > 1 else said, end='', file=sys.stderr, flush=True)
      answer = process.stdout.read()  # one line, which fits into the pipe buffer
    self._processes.discard(process)
    code = process.returncode
    # A signal ended the process: that of `stop`, or another one, which is reported as shells do.
    if code < 0:
      code = PREEMPTED if self.stopping and code == -signal.SIGTERM else 128 - code
    return code, said, answer.strip().rpartition('\n')[2]


def make_all(
  left: Callable[[], Iterable[Hashable]],
  calls: Callable[[Hashable], list[list[str]]],
  keep: Callable[[Hashable, Ended], bool],
  jobs: int,
) -> int:
  """Starts runs until none is left, or until one has been stopped or has failed.

  Returns the exit code: 0 if none is left, that of the first run that failed, or 75.

  Args:
    left: returns the runs that can be started now, the most urgent first; called again after every run.
    calls: returns the calls of main.py for a run.
    keep: records how a run ended; returns False to start no other run.
    jobs: the number of runs at a time.
  """
  runner, code = Runner(jobs), 0
  while True:
    for key in [key for key in left() if key not in runner.going][: runner.free]:
      runner.start(key, *calls(key))
    if not runner.going:
      return code or (PREEMPTED if runner.stopping and list(left()) else 0)
    for key, ended in runner.wait():
      if not keep(key, ended):
        code = code or ended.code
        runner.stop()


def start(main: Callable[[], int]) -> None:
  """Exits with the code that `main` returns; a refusal is one line on stderr and exit code 2."""
  try:
    sys.exit(main())
  except Refused as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(USER_ERROR)
