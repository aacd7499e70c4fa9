"""One round of each kind: a fault in a real run, the same command again, and what came of it.

A round *survives* where the run ends like the undisturbed one, bit for bit in loss trace and final state,
after as many clear errors as the fault deserves, and did no step again that a checkpoint had saved.
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
from .arena import BOUND, Arena, Hang, digest, sealed, standstills, until, wait_for, wait_for_moment

# Steps and rows of the batch; few, as the compiled steps of each can be used again.
SPOILT = ((0, 3), (6, 0), (9, 7), (14, 5))
_TRIES = 5
SIGTERM_EARLY = -signal.SIGTERM  # before main.py has begun to listen


class Round(NamedTuple):
  """What came of a round.

  Attributes:
    number: of the round, from 0.
    kind: of the fault.
    moment: when it struck.
    survived: see the module.
    told: the error that the run stopped with, '' where it needed none.
    wrong: what went wrong, '' for nothing.
    seconds: that the round took.
    processor_seconds: of all its programs; other work beside it changes them less.
  """

  number: int
  kind: str
  moment: str
  survived: bool
  told: str
  wrong: str
  seconds: float
  processor_seconds: float


class Wrong(Exception):
  """The run did not do as it should."""


class Fight:
  """One round: its workdir, its random numbers, and the steps that all kinds share."""

  def __init__(self, arena: Arena, number: int, seed: int, room: pathlib.Path):
    self.arena, self.room = arena, room
    self.rng = random.Random(f'{seed} {number}')
    self.workdir, self.log = room / 'run', room / 'stderr'
    self.kind, self.data = 'folder', arena.data('folder')
    self.told, self.moment = '', ''

  def start(self, fault: str = '', **environment: str) -> subprocess.Popen:
    """Starts the run; its stderr goes to the log."""
    args = self.arena.arguments(self.kind, self.data, self.workdir)
    return self.arena.start(*args, child=fault, log=self.log, **environment)

  def strike(self, process: subprocess.Popen, early: float = 0.2) -> None:
    """Waits for the moment of the fault."""
    self.moment = wait_for_moment(self.rng, self.workdir, [process], early)

  def kill(self, process: subprocess.Popen) -> None:
    process.kill()
    process.wait()

  def expect(self, code: int, codes: tuple[int, ...], *texts: str) -> None:
    """Checks an exit code and the one clear line that goes with it."""
    text = self.log.read_text(errors='replace')
    self.check_text(text)
    if code not in codes:
      raise Wrong(f'exit code {code}, not {codes}: {text[-300:]}')
    if code != 0 and code != SIGTERM_EARLY:
      last = text.strip().splitlines()[-1]
      if missing := [part for part in texts if not re.search(part, last)]:
        raise Wrong(f'the last line does not tell {missing[0]!r}: {last[:300]}')
      self.told = last[:300]

  def check_text(self, text: str) -> None:
    """No traceback is shown to a user."""
    if 'Traceback' in text or '***' in text:
      raise Wrong(f'a traceback: {text[-600:]}')

  def expect_refusal(self, *texts: str) -> None:
    """The same command, while what it needs is missing: one clear error."""
    before = sealed(self.workdir)
    self.log.write_text('')
    self.expect(wait_for(self.start()), (2, 3), *texts)
    if sealed(self.workdir) != before:
      raise Wrong('a refused command has changed the checkpoints')

  def resume(self, newest: int | None = None) -> None:
    """The same command again: it goes on from the newest checkpoint and ends as if nothing had happened."""
    there = sealed(self.workdir)
    newest = newest if newest is not None else (there[-1] if there else 0)
    result = self.arena.train(self.kind, self.data, self.workdir)
    self.check_text(result.stderr)
    if result.returncode != 0:
      raise Wrong(f'resumed, exit code {result.returncode}: {result.stderr[-300:]}')
    found = re.search(r'resuming .* at step (\d+) of', result.stderr)
    if (int(found[1]) if found else 0) != newest:
      raise Wrong(f'resumed at {found and found[1]} where step {newest} was saved')
    metrics, state = self.arena.reference(self.kind)
    if read_metrics(self.workdir) != metrics:
      raise Wrong('another loss trace')
    if digest(self.workdir) != state:
      raise Wrong('another final state')


def kill(fight: Fight) -> None:
  """SIGKILL at any moment."""
  process = fight.start()
  fight.strike(process)
  fight.kill(process)
  fight.resume()


def term(fight: Fight) -> None:
  """SIGTERM at any moment: it saves, exits with 75 and says how to go on."""
  process = fight.start()
  fight.strike(process)
  process.terminate()
  fight.expect(wait_for(process), (75, 0, SIGTERM_EARLY), 'the same command resumes')
  fight.resume()


def disk(fight: Fight) -> None:
  """The disk, a small tmpfs, is full from some moment on."""
  fight.workdir.mkdir()
  with mounted(fight.workdir, '-t', 'tmpfs', '-o', 'size=16m', 'tmpfs'):
    process = fight.start()
    fight.strike(process)
    filler = fight.workdir / 'filler'
    with contextlib.suppress(OSError), filler.open('wb') as file:
      while True:
        file.write(bytes(4096))
        file.flush()
    fight.expect(wait_for(process), (3, 0), 'No space left', 'the same command')
    filler.unlink()
    fight.resume()


def read_only(fight: Fight) -> None:
  """The workdir cannot be written any more: a read-only mount, or without root no right to."""
  process = fight.start()
  fight.strike(process)
  fight.workdir.mkdir(exist_ok=True)
  with unwritable(fight.workdir):
    fight.expect(
      wait_for(process),
      (2, 3, 0),
      'Read-only|Permission|cannot be written',
      'choose|the same command',
    )
    fight.expect_refusal('cannot be written', 'choose another folder')
  fight.resume()


def checkpoint(fight: Fight) -> None:
  """Bytes of the newest checkpoint are flipped or cut off."""
  process = fight.start()
  until(lambda: len(sealed(fight.workdir)) > 1 or process.poll() is not None)
  fight.strike(process, early=0)
  fight.kill(process)
  *_, before, newest = sealed(fight.workdir)
  folder = fight.workdir / FOLDER / str(newest)
  files = sorted(path for path in folder.rglob('*') if path.is_file() and path.stat().st_size)
  damage(fight.rng.choice(files), fight.rng)
  fight.resume(newest=before)
  if not (folder.parent / f'{newest}.damaged').is_dir():
    raise Wrong('the damaged checkpoint was not kept')
  fight.told = f'the checkpoint of step {newest} is damaged'


def shard(fight: Fight) -> None:
  """A file of the store is gone."""
  fight.kind, fight.data = 'store', fight.room / 'store'
  shutil.copytree(fight.arena.data('store'), fight.data)
  process = fight.start()
  fight.strike(process)
  lost = fight.rng.choice(sorted(fight.data.glob('images-*')))
  lost.rename(fight.room / lost.name)
  fight.kill(process)
  fight.expect_refusal(re.escape(lost.name), 'copy or prepare the store again')
  (fight.room / lost.name).rename(lost)
  fight.resume()


def image(fight: Fight) -> None:
  """Bytes of a training image are flipped or cut off, so that it may not even decode."""
  fight.data = fight.room / 'images'
  shutil.copytree(fight.arena.data('folder'), fight.data)
  process = fight.start()
  fight.strike(process, early=0)
  fight.kill(process)
  path = fight.rng.choice(sorted(fight.data.glob('train/*/*.png')))
  whole = path.read_bytes()
  damage(path, fight.rng)
  if sealed(fight.workdir):
    fight.expect_refusal(re.escape(str(path)), 'restore')
  path.write_bytes(whole)
  fight.resume()


def nan(fight: Fight) -> None:
  """An image of one step turns to NaN on the device; the run names step and image."""
  step, row = fight.rng.choice(SPOILT)
  fight.moment = f'step {step + 1}, row {row}'
  process = fight.start('nan', NAN_STEP=str(step), NAN_ROW=str(row))
  fight.expect(wait_for(process), (3,), f'at step {step + 1} in the input', r'class\d/\d\.png')
  fight.resume()


def peer(fight: Fight) -> None:
  """One of two processes is killed; the other one says so."""
  fight.kind = 'two'
  with fight.arena.together(*fight.arena.arguments('two', fight.data, fight.workdir)) as run:
    fight.moment = wait_for_moment(fight.rng, fight.workdir, run.processes)
    victim = fight.rng.randrange(2)
    run.processes[victim].kill()
    # One that was lost before it came is waited for, as it might be slow to start.
    wait_for(run.processes[1 - victim], START_TIMEOUT + BOUND)
    survivor = run.wait()[1 - victim]
  fight.log.write_text(survivor.stderr)
  fight.expect(
    survivor.returncode, (3, 2, 0), f'process {victim} of 2|did not meet|not find each other'
  )
  fight.resume()


def power(fight: Fight) -> None:
  """The power fails: what was not synced is gone."""
  log = fight.room / 'synced'
  process = fight.start('power', SYNC_LOG=str(log))
  fight.strike(process)
  fight.kill(process)
  lost = child.cut_power(fight.workdir, log) if fight.workdir.exists() else 0
  fight.moment += f', {lost} files cut'
  fight.resume()


def late_kill(fight: Fight) -> None:
  """SIGKILL when there is something to forget, as two epochs are over; for the controls."""
  fight.kill(wait_for_epochs(fight, fight.start()))
  fight.resume()


def late_power(fight: Fight) -> None:
  """A power cut at such a moment."""
  log = fight.room / 'synced'
  fight.kill(wait_for_epochs(fight, fight.start('power', SYNC_LOG=str(log))))
  child.cut_power(fight.workdir, log)
  fight.resume()


def wait_for_epochs(fight: Fight, process: subprocess.Popen) -> subprocess.Popen:
  """Waits until the checkpoint of the second epoch is there, and then a moment more."""
  until(lambda: max(sealed(fight.workdir), default=0) >= 10 or process.poll() is not None)
  if process.poll() is not None:
    raise Wrong('it ended by itself')
  time.sleep(fight.rng.uniform(0, 0.3))
  return process


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


def fight_round(arena: Arena, number: int, seed: int, kind: str) -> Round:
  """Fights one round; again where it went wrong while the machine stood still, as heartbeats then do."""
  for _ in range(_TRIES):
    before = len(standstills)
    found = _fight_round(arena, number, seed, kind)
    if found.survived or len(standstills) == before:
      break
  return found


def _fight_round(arena: Arena, number: int, seed: int, kind: str) -> Round:
  """Fights one round; its folder is removed where the run survived."""
  room = arena.folder / f'round-{number}'
  shutil.rmtree(room, ignore_errors=True)
  room.mkdir()
  fight, wrong = Fight(arena, number, seed, room), ''
  began, worked = time.monotonic(), processor_seconds()
  try:
    (KINDS | CONTROLS)[kind](fight)
  except Wrong as error:
    wrong = str(error)
  except Hang as error:
    wrong = f'hang: {error}'
  seconds = round(time.monotonic() - began, 1), round(processor_seconds() - worked, 1)
  if not wrong:
    shutil.rmtree(room)
  return Round(number, kind, fight.moment, not wrong, fight.told, wrong, *seconds)


def processor_seconds() -> float:
  """Of this process and of all those that it has waited for."""
  return sum(os.times()[:4])


def damage(path: pathlib.Path, rng: random.Random) -> None:
  """Flips a bit, or cuts the end off."""
  data = bytearray(path.read_bytes())
  if rng.random() < 0.5:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
  else:
    del data[rng.randrange(len(data)) :]
  path.write_bytes(data)


def is_root() -> bool:
  """Whether file systems can be mounted here."""
  return (
    os.geteuid() == 0
    and not subprocess.run(['unshare', '-m', 'true'], capture_output=True, check=False).returncode
  )


@contextlib.contextmanager
def mounted(place: pathlib.Path, *how: str):
  """A file system mounted at `place`."""
  subprocess.run(['mount', *how, str(place)], check=True)
  try:
    yield
  finally:
    for _ in range(50):  # a process that was killed may hold it for a moment
      if not subprocess.run(['umount', str(place)], capture_output=True, check=False).returncode:
        break
      time.sleep(0.1)


@contextlib.contextmanager
def unwritable(folder: pathlib.Path):
  """`folder` read-only for everybody who opens a file in it from now on."""
  if is_root():
    twin = folder.with_name('twin')  # is made read-only first: the folder may be at work
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
