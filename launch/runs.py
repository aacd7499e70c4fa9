"""Runs of main.py, one or several at a time, and the file of results that says what became of them.

What the programs of this folder share. Paths are relative to the checkout, where main.py is started. A file
of results is JSON: what its program makes of the runs, and `runs`, each with its command, the seconds it took
and on what, and when, it was made.
"""

import argparse
from collections.abc import Callable, Hashable, Iterable
import concurrent.futures
import datetime
import importlib.metadata
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


def parser(description: str, *names: str) -> argparse.ArgumentParser:
  """Of the command line: `names` are required; `--jobs`; what it does not know goes to every run."""
  made = argparse.ArgumentParser(
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  for name in names:
    made.add_argument(f'--{name}', required=True, type=seed_list if name == 'seeds' else str)
  made.add_argument('--jobs', type=int, default=1, help='runs at a time (on CPUs)')
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


def circumstances() -> dict:
  """When and on what runs are made."""
  return {
    'date': datetime.date.today().isoformat(),
    'hardware': hardware(),
    'versions': {name: importlib.metadata.version(name) for name in PACKAGES},
  }


def known(output: str, command: Callable[[dict], str]) -> list[dict]:
  """The runs of a file of results; none if there is no file.

  Args:
    output: the file.
    command: the command by which a run of the file would be made now.

  Raises:
    Refused: a run was made by another command, for the two do not belong in one file.
  """
  path = ROOT / output
  found = json.loads(path.read_text())['runs'] if path.exists() else []
  for run in found:
    theirs, ours = (set(shlex.split(line)) for line in (run.get('command', ''), command(run)))
    if theirs != ours:
      lists = (', '.join(sorted(words)) or 'none' for words in (theirs - ours, ours - theirs))
      raise Refused(
        '{} has a run that was made with other options (there: {}; now: {}): give the same ones, or name '
        'another --output and --workdir'.format(output, *lists)
      )
  return found


def write(output: str, result: dict, runs: list[dict]) -> None:
  """Writes a file of results, with the folder it is in."""
  path = ROOT / output
  path.parent.mkdir(parents=True, exist_ok=True)
  whole = {
    'command': shlex.join(['python', f'launch/{pathlib.Path(sys.argv[0]).name}', *sys.argv[1:]])
  }
  path.write_text(json.dumps(whole | result | {'runs': runs}, indent=2) + '\n')


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
    name = f'{pathlib.Path(places[0]).name if places else "average"}: ' if self._jobs > 1 else ''
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
        print(f'{name}{said}', end='', file=sys.stderr, flush=True)
      answer = process.stdout.read()  # a line, which fits in the pipe
    self._processes.discard(process)
    killed = self.stopping and process.returncode < 0  # by the signal, as it was about to end
    return PREEMPTED if killed else process.returncode, said, answer.strip().rpartition('\n')[2]


def make_all(
  left: Callable[[], Iterable[Hashable]],
  calls: Callable[[Hashable], list[list[str]]],
  keep: Callable[[Hashable, Ended], bool],
  jobs: int,
) -> int:
  """Makes runs until none is left, or one has been stopped or has failed; returns the exit code.

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
      return code
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
