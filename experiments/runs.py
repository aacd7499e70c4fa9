"""Runs of main.py, one or several at a time, and the file of results that says what became of them.

What the programs of this folder share. Paths are relative to the checkout, where main.py is started. A file
of results is JSON: what its program makes of the runs, and `runs`, each with its command, the seconds it took
and when, on what and of which commits it was made.
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
USER_ERROR, PREEMPTED = 2, 75  # main.py's exit codes; after the second the same command goes on
PACKAGES = ('jax', 'flax', 'optax', 'numpy')


class Refused(Exception):
  """What was asked cannot be done; the message says what to ask for."""


def seed_list(text: str) -> list[int]:
  """The numbers in a text such as 0,1,2."""
  try:
    return [int(number) for number in text.split(',')]
  except ValueError:
    raise argparse.ArgumentTypeError(f'{text!r} is no list of numbers such as 0,1,2') from None


def number(text: str) -> int:
  """A number of one or more."""
  if not text.isdecimal() or not int(text):
    raise argparse.ArgumentTypeError(f'{text!r} is not 1 or more')
  return int(text)


def parser(description: str, *names: str) -> argparse.ArgumentParser:
  """Of the command line: `names` are required; `--jobs`; what it does not know goes to every run."""
  made = argparse.ArgumentParser(
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  for name in names:
    made.add_argument(f'--{name}', required=True, type=seed_list if name == 'seeds' else str)
  made.add_argument('--jobs', type=number, default=1, help='runs at a time (on CPUs)')
  return made


def hardware() -> str:
  """The processor's name and how many cores of it this process may use, and the accelerators.

  A process of its own asks JAX: who has asked holds the accelerator, and runs could not.
  """
  cpuinfo = pathlib.Path('/proc/cpuinfo')
  lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
  names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
  ask = 'import jax; print(", ".join(sorted({device.device_kind for device in jax.devices()})))'
  kinds = subprocess.run([sys.executable, '-c', ask], stdout=subprocess.PIPE, text=True, check=True)
  cpu = names[0] if names else platform.processor()
  return f'{cpu}, {len(os.sched_getaffinity(0))} cores; JAX on {kinds.stdout.strip()}'


def commit() -> str | None:
  """The checkout's commit, with "changed" behind it where files are; None where git knows of none."""
  ask = ['git', 'describe', '--always', '--abbrev=40', '--exclude=*', '--dirty= changed']
  try:
    told = subprocess.run(ask, cwd=ROOT, capture_output=True, text=True)
  except FileNotFoundError:
    return None
  return told.stdout.strip() or None


def circumstances() -> dict:
  """When, on what and of which commit runs are made."""
  return {
    'date': datetime.date.today().isoformat(),
    'hardware': hardware(),
    'versions': {name: importlib.metadata.version(name) for name in PACKAGES},
    'commits': [commit()],
  }


def gone_on(before: dict, seconds: float, on: dict) -> dict:
  """The time and the circumstances of a run that has been begun as `before` says, {} if it had not."""
  commits = dict.fromkeys([*before.get('commits', []), *on['commits']])
  return {'seconds': round(before.get('seconds', 0) + seconds), **on, 'commits': list(commits)}


def flags_of(command: str) -> list[dict[str, str]]:
  """The flags of each of the calls that `&&` joins, in any order; of one given twice the last counts."""
  calls = command.split(' && ')
  return [dict(word.partition('=')[::2] for word in shlex.split(call)) for call in calls]


def known(
  output: str, command: Callable[[dict], str], is_result: Callable[[dict], bool]
) -> list[dict]:
  """The runs of a file of results; none if there is no file.

  One that was made by other commands is left out, to be made anew, unless it is a result.

  Args:
    output: the file.
    command: the command by which a run of the file would be made now.
    is_result: whether a run has come to what it was trained for.

  Raises:
    Refused: a result was made by another command, for the two do not belong in one file; or the file is none
      of results, or those of another program.
  """
  path, found = ROOT / output, []
  try:
    runs = json.loads(path.read_text())['runs'] if path.exists() else []
  except (ValueError, KeyError, TypeError):
    raise Refused(f'{output} is no file of results: name another --output, or remove it') from None
  for run in runs:
    try:
      theirs, ours = (flags_of(line) for line in (run['command'], command(run)))
      binds = is_result(run)
    except KeyError:
      raise Refused(f'{output} is of another program: name another --output') from None
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
  """The flags that the others have not, or otherwise."""
  own = sorted(name for name in flags if others.get(name) != flags[name])
  return ', '.join(f'{name}={flags[name]}' if flags[name] else name for name in own) or 'none'


def write(output: str, result: dict, runs: list[dict]) -> None:
  """Writes a file of results, whole or not at all, with the folder it is in."""
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
  """How a person would type a call of main.py."""
  return shlex.join(['python', 'main.py', *arguments])


class Ended(NamedTuple):
  """How the calls of main.py for a run ended.

  Attributes:
    code: exit code of the last one; those after a failure are not made.
    said: the last line of its log.
    answers: the JSON of the last line on stdout, of each that ended well.
    seconds: all of them took.
  """

  code: int
  said: str
  answers: list[dict]
  seconds: float


class Runner:
  """Makes runs, some at a time; a signal to this program is handed down, and then no other is started."""

  def __init__(self, jobs: int):
    self._futures: dict[concurrent.futures.Future, Hashable] = {}
    self._jobs, self._pool = jobs, concurrent.futures.ThreadPoolExecutor(jobs)
    self._processes: set[subprocess.Popen] = set()
    self.stopping = False
    for which in (signal.SIGTERM, signal.SIGINT):
      signal.signal(which, lambda *_: self.stop())

  @property
  def going(self) -> list[Hashable]:
    """What is being made."""
    return list(self._futures.values())

  @property
  def free(self) -> int:
    """How many runs can be started."""
    return 0 if self.stopping else self._jobs - len(self._futures)

  def stop(self) -> None:
    """Has all of them write a checkpoint and end; starts no other."""
    self.stopping = True
    for process in list(self._processes):
      process.send_signal(signal.SIGTERM)

  def start(self, key: Hashable, *calls: list[str]) -> None:
    """Begins, or goes on with, a run: calls of main.py, one after the other."""
    self._futures[self._pool.submit(self._run, calls)] = key

  def wait(self) -> list[tuple[Hashable, Ended]]:
    """Waits until one or more have ended."""
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
    """Exit code, last line of the log, last line on stdout."""
    print(as_command(arguments), file=sys.stderr)
    places = [word.partition('=')[2] for word in arguments if word.startswith('--workdir=')]
    name = '/'.join(pathlib.Path(places[0]).parts[-2:]) if places else 'average'
    with subprocess.Popen(
      [sys.executable, 'main.py', *arguments],
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      start_new_session=True,  # Ctrl-C reaches it once, from here
      text=True,
    ) as process:
      self._processes.add(process)
      if self.stopping:
        process.send_signal(signal.SIGTERM)
      said = ''
      for said in process.stderr:
        print(f'{name}: {said}' if self._jobs > 1 else said, end='', file=sys.stderr, flush=True)
      answer = process.stdout.read()  # a line, which fits in the pipe
    self._processes.discard(process)
    code = process.returncode
    if (
      code < 0
    ):  # a signal: that of `stop`, as the run was about to end, or another, told as shells do
      code = PREEMPTED if self.stopping and code == -signal.SIGTERM else 128 - code
    return code, said, answer.strip().rpartition('\n')[2]


def make_all(
  left: Callable[[], Iterable[Hashable]],
  calls: Callable[[Hashable], list[list[str]]],
  keep: Callable[[Hashable, Ended], bool],
  jobs: int,
) -> int:
  """Makes runs until none is left, or one has been stopped or has failed.

  Returns the exit code: 0 if none is left, that of the first that failed, or 75.

  Args:
    left: what can be made now, the most urgent first; asked again after every run.
    calls: of main.py, to make a run.
    keep: writes down how a run ended; False: start no other.
    jobs: runs at a time.
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
  """Ends this program as `main` says; what is refused is one line on stderr, exit code 2."""
  try:
    sys.exit(main())
  except Refused as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(USER_ERROR)
