"""One function per kind of fault: it breaks a real run, repeats the command, and checks the result.

A run *survives* if three conditions hold. Its loss trace and its final state equal those of the undisturbed
run, bit for bit. It stopped with one clear error if the fault requires one. It repeated no step that a
checkpoint contained.
"""

import contextlib
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import time
from typing import NamedTuple

from tiny import read_metrics

from alexnet_jax.distributed.multihost import START_TIMEOUT
from alexnet_jax.workdir.checkpoint import FOLDER

from . import child
from .harness import (
  BOUND,
  Hang,
  Harness,
  digest,
  sealed,
  suspensions,
  until,
  wait_for,
  wait_for_moment,
)

# The (step, row of the batch) that may become NaN. The list is short, so that compiled steps can be reused.
NAN_ROWS = ((0, 3), (6, 0), (9, 7), (14, 5))
_TRIES = 5
SIGTERM_EARLY = -signal.SIGTERM  # the signal came before main.py had installed its handler


class Outcome(NamedTuple):
  """The result of one round.

  Attributes:
    number: the index of the round, from 0.
    kind: the kind of fault.
    moment: when the fault was injected.
    survived: whether the run survived, as the module defines it.
    message: the error with which the run stopped, or '' if the fault requires none.
    failure: how the run failed to survive, or '' if it survived.
    seconds: the duration of the round.
    processor_seconds: the processor time of all its processes, which depends little on other load.
  """

  number: int
  kind: str
  moment: str
  survived: bool
  message: str
  failure: str
  seconds: float
  processor_seconds: float


class ScenarioError(Exception):
  """The run did not behave as required."""


class Trial:
  """One round: its workdir, its random numbers, and the operations that all scenarios share."""

  def __init__(self, harness: Harness, number: int, seed: int, folder: pathlib.Path):
    self.harness, self.folder = harness, folder
    self.rng = random.Random(f'{seed} {number}')
    self.workdir, self.log = folder / 'run', folder / 'stderr'
    self.kind, self.data = 'folder', harness.data('folder')
    self.message, self.moment = '', ''

  def start(self, fault: str = '', **environment: str) -> subprocess.Popen:
    """Starts the run with its stderr appended to the log."""
    args = self.harness.arguments(self.kind, self.data, self.workdir)
    return self.harness.start(*args, child=fault, log=self.log, **environment)

  def wait_for_moment(self, process: subprocess.Popen, early: float = 0.2) -> None:
    """Waits for the random moment of the fault."""
    self.moment = wait_for_moment(self.rng, self.workdir, [process], early)

  def kill(self, process: subprocess.Popen) -> None:
    process.kill()
    process.wait()

  def expect(self, code: int, codes: tuple[int, ...], *texts: str) -> None:
    """Checks the exit code, and that the last line of stderr contains every text."""
    text = self.log.read_text(errors='replace')
    self.check_text(text)
    if code not in codes:
      raise ScenarioError(f'exit code {code}, not {codes}: {text[-300:]}')
    if code != 0 and code != SIGTERM_EARLY:
      last = text.strip().splitlines()[-1]
      if missing := [part for part in texts if not re.search(part, last)]:
        raise ScenarioError(f'the last line does not contain {missing[0]!r}: {last[:300]}')
      self.message = last[:300]

  def check_text(self, text: str) -> None:
    """Checks that the user sees no traceback."""
    if 'Traceback' in text or '***' in text:
      raise ScenarioError(f'a traceback: {text[-600:]}')

  def expect_refusal(self, *texts: str) -> None:
    """Repeats the command before the fault is repaired, and checks that it stops with one clear error."""
    before = sealed(self.workdir)
    self.log.write_text('')
    self.expect(wait_for(self.start()), (2, 3), *texts)
    if sealed(self.workdir) != before:
      raise ScenarioError('a refused command changed the checkpoints')

  def resume(self, newest: int | None = None) -> None:
    """Repeats the command and checks that the run resumes at the newest checkpoint and ends as it should."""
    complete = sealed(self.workdir)
    newest = newest if newest is not None else (complete[-1] if complete else 0)
    result = self.harness.train(self.kind, self.data, self.workdir)
    self.check_text(result.stderr)
    if result.returncode != 0:
      raise ScenarioError(f'resumed, exit code {result.returncode}: {result.stderr[-300:]}')
    found = re.search(r'resuming .* at step (\d+) of', result.stderr)
    if (int(found[1]) if found else 0) != newest:
      raise ScenarioError(f'resumed at {found and found[1]} although step {newest} was saved')
    metrics, state = self.harness.reference(self.kind)
    if read_metrics(self.workdir) != metrics:
      raise ScenarioError('another loss trace')
    if digest(self.workdir) != state:
      raise ScenarioError('another final state')


def kill(trial: Trial) -> None:
  """Sends SIGKILL at a random moment."""
  process = trial.start()
  trial.wait_for_moment(process)
  trial.kill(process)
  trial.resume()


def term(trial: Trial) -> None:
  """Sends SIGTERM at a random moment. The run must save, exit with code 75 and say how to resume it."""
  process = trial.start()
  trial.wait_for_moment(process)
  process.terminate()
  trial.expect(wait_for(process), (75, 0, SIGTERM_EARLY), 'the same command resumes')
  trial.resume()


def disk(trial: Trial) -> None:
  """Fills the disk, a small tmpfs, at a random moment."""
  trial.workdir.mkdir()
  with mounted(trial.workdir, '-t', 'tmpfs', '-o', 'size=16m', 'tmpfs'):
    process = trial.start()
    trial.wait_for_moment(process)
    filler = trial.workdir / 'filler'
    with contextlib.suppress(OSError), filler.open('wb') as file:
      while True:
        file.write(bytes(4096))
        file.flush()
    trial.expect(wait_for(process), (3, 0), 'No space left', 'the same command')
    filler.unlink()
    trial.resume()


def read_only(trial: Trial) -> None:
  """Makes the workdir read-only, by a mount if the user is root and by permissions otherwise."""
  process = trial.start()
  trial.wait_for_moment(process)
  trial.workdir.mkdir(exist_ok=True)
  with unwritable(trial.workdir):
    trial.expect(
      wait_for(process),
      (2, 3, 0),
      'Read-only|Permission|cannot be written',
      'choose|the same command',
    )
    trial.expect_refusal('cannot be written', 'choose another folder')
  trial.resume()


def checkpoint(trial: Trial) -> None:
  """Flips a bit of the newest checkpoint or truncates one of its files."""
  process = trial.start()
  until(lambda: len(sealed(trial.workdir)) > 1 or process.poll() is not None)
  trial.wait_for_moment(process, early=0)
  trial.kill(process)
  *_, before, newest = sealed(trial.workdir)
  folder = trial.workdir / FOLDER / str(newest)
  files = sorted(path for path in folder.rglob('*') if path.is_file() and path.stat().st_size)
  damage(trial.rng.choice(files), trial.rng)
  trial.resume(newest=before)
  if not (folder.parent / f'{newest}.damaged').is_dir():
    raise ScenarioError('the damaged checkpoint was not kept')
  trial.message = f'the checkpoint of step {newest} is damaged'


def shard(trial: Trial) -> None:
  """Removes a file of the store."""
  trial.kind, trial.data = 'store', trial.folder / 'store'
  shutil.copytree(trial.harness.data('store'), trial.data)
  process = trial.start()
  trial.wait_for_moment(process)
  lost = trial.rng.choice(sorted(trial.data.glob('images-*')))
  lost.rename(trial.folder / lost.name)
  trial.kill(process)
  trial.expect_refusal(
    re.escape(lost.name), 'copy it again, or remove the store and prepare it again'
  )
  (trial.folder / lost.name).rename(lost)
  trial.resume()


def image(trial: Trial) -> None:
  """Flips a bit of a training image or truncates it, so that it may not decode."""
  trial.data = trial.folder / 'images'
  shutil.copytree(trial.harness.data('folder'), trial.data)
  process = trial.start()
  trial.wait_for_moment(process, early=0)
  trial.kill(process)
  path = trial.rng.choice(sorted(trial.data.glob('train/*/*.png')))
  intact = path.read_bytes()
  damage(path, trial.rng)
  if sealed(trial.workdir):
    trial.expect_refusal(re.escape(str(path)), 'restore')
  path.write_bytes(intact)
  trial.resume()


def nan(trial: Trial) -> None:
  """Turns one image of one step to NaN on the device. The run must name the step and the image."""
  step, row = trial.rng.choice(NAN_ROWS)
  trial.moment = f'step {step + 1}, row {row}'
  process = trial.start('nan', NAN_STEP=str(step), NAN_ROW=str(row))
  trial.expect(wait_for(process), (3,), f'at step {step + 1} in the input', r'class\d/\d\.png')
  trial.resume()


def peer(trial: Trial) -> None:
  """Kills one of two processes. The other one must name it."""
  trial.kind = 'two'
  with trial.harness.start_two(*trial.harness.arguments('two', trial.data, trial.workdir)) as run:
    trial.moment = wait_for_moment(trial.rng, trial.workdir, run.processes)
    victim = trial.rng.randrange(2)
    run.processes[victim].kill()
    # The survivor waits START_TIMEOUT for a process that was killed before it joined.
    wait_for(run.processes[1 - victim], START_TIMEOUT + BOUND)
    survivor = run.wait()[1 - victim]
  trial.log.write_text(survivor.stderr)
  trial.expect(
    survivor.returncode,
    (3, 2, 0),
    f'process {victim} of 2|did not find the others|not find each other',
  )
  trial.resume()


def power(trial: Trial) -> None:
  """Simulates a power cut, which loses all data that were not synced."""
  log = trial.folder / 'synced'
  process = trial.start('power', SYNC_LOG=str(log))
  trial.wait_for_moment(process)
  trial.kill(process)
  lost = child.cut_power(trial.workdir, log) if trial.workdir.exists() else 0
  trial.moment += f', {lost} files truncated'
  trial.resume()


def late_kill(trial: Trial) -> None:
  """Sends SIGKILL after two epochs, when the run has state to lose. The controls use this scenario."""
  kill_late(trial, 'hold')
  trial.resume()


def late_power(trial: Trial) -> None:
  """Simulates a power cut after two epochs. The controls use this scenario."""
  log = trial.folder / 'synced'
  kill_late(trial, 'power,hold', SYNC_LOG=str(log))
  child.cut_power(trial.workdir, log)
  trial.resume()


def kill_late(trial: Trial, faults: str, **environment: str) -> None:
  """Starts the run and kills it after two or three epochs, at the step after a checkpoint."""
  newest = trial.rng.choice((10, 12, 15))
  process = trial.start(faults, HOLD_STEP=str(newest + 1), **environment)
  until(lambda: newest in sealed(trial.workdir) or process.poll() is not None)
  if process.poll() is not None:
    raise ScenarioError('the run ended by itself')
  trial.kill(process)


CONTROLS = {'late kill': late_kill, 'late power': late_power}
KINDS = {
  'kill': kill,
  'term': term,
  'disk': disk,
  'read-only': read_only,
  'checkpoint': checkpoint,
  'shard': shard,
  'image': image,
  'nan': nan,
  'peer': peer,
  'power': power,
}


def run_round(harness: Harness, number: int, seed: int, kind: str) -> Outcome:
  """Runs one round.

  If a round fails while the machine is suspended, it is repeated, because a suspension breaks heartbeats.
  """
  for _ in range(_TRIES):
    before = len(suspensions)
    found = _run_round(harness, number, seed, kind)
    if found.survived or len(suspensions) == before:
      break
  return found


def _run_round(harness: Harness, number: int, seed: int, kind: str) -> Outcome:
  """Runs one round, and removes its folder if the run survived."""
  folder = harness.folder / f'round-{number}'
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir()
  trial, failure = Trial(harness, number, seed, folder), ''
  began, worked = time.monotonic(), processor_seconds()
  try:
    (KINDS | CONTROLS)[kind](trial)
  except ScenarioError as error:
    failure = str(error)
  except Hang as error:
    failure = f'hang: {error}'
  seconds = round(time.monotonic() - began, 1), round(processor_seconds() - worked, 1)
  if not failure:
    shutil.rmtree(folder)
  return Outcome(number, kind, trial.moment, not failure, trial.message, failure, *seconds)


def processor_seconds() -> float:
  """Returns the processor time of this process and of all processes that it has waited for."""
  return sum(os.times()[:4])


def damage(path: pathlib.Path, rng: random.Random) -> None:
  """Flips one random bit of a file, or truncates the file."""
  data = bytearray(path.read_bytes())
  if rng.random() < 0.5:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
  else:
    del data[rng.randrange(len(data)) :]
  path.write_bytes(data)


def is_root() -> bool:
  """Returns whether this process may mount file systems."""
  return (
    os.geteuid() == 0
    and not subprocess.run(['unshare', '-m', 'true'], capture_output=True, check=False).returncode
  )


@contextlib.contextmanager
def mounted(folder: pathlib.Path, *options: str):
  """Mounts a file system at `folder` and unmounts it at the end."""
  subprocess.run(['mount', *options, str(folder)], check=True)
  try:
    yield
  finally:
    for _ in range(50):  # a killed process may keep the file system busy for a moment
      if not subprocess.run(['umount', str(folder)], capture_output=True, check=False).returncode:
        break
      time.sleep(0.1)


@contextlib.contextmanager
def unwritable(folder: pathlib.Path):
  """Makes `folder` read-only for all files that are opened inside the context."""
  if is_root():
    # The twin is made read-only before it is mounted at the folder, because the folder may be in use.
    twin = folder.with_name('twin')
    twin.mkdir(exist_ok=True)
    with mounted(twin, '--bind', str(folder)):
      subprocess.run(['mount', '-o', 'remount,bind,ro', str(twin)], check=True)
      with mounted(folder, '--bind', str(twin)):
        yield
    return
  folders = [folder, *filter(pathlib.Path.is_dir, folder.rglob('*'))]
  for one in folders:
    one.chmod(0o555)
  try:
    yield
  finally:
    for one in folders:
      if one.exists():
        one.chmod(0o755)
