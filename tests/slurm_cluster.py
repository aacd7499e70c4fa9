"""A real SLURM on this machine: munge, a controller and two nodes, with all their files in one folder.

The daemons are those of Debian's packages. They run in a mount namespace of their own, in which /etc/hosts
also names the two nodes; nothing outside the folder is changed.
"""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import time

from tiny import free_port

INSTALL = 'apt-get install -y slurm-wlm munge'
_PROGRAMS = ('munged', 'slurmctld', 'slurmd', 'sbatch', 'unshare')
TIMEOUT = 240  # seconds after which a job that does not reach a state fails its test
NODES = ('node1', 'node2')

_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
KillWait=30
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 RealMemory=4096 Gres=gpu:2
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 RealMemory=4096 Gres=gpu:2
PartitionName=main Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP
"""
# Files stand for the two GPUs of each node; JAX is told to use the CPU.
_GRES = """
NodeName=node1 Name=gpu File={folder}/gpu[0-1]
NodeName=node2 Name=gpu File={folder}/gpu[2-3]
"""


def reason_not_to_run() -> str:
  """Returns why no cluster can be started here, or ''."""
  path = os.environ['PATH'] + ':/usr/sbin:/sbin'
  missing = [name for name in _PROGRAMS if not shutil.which(name, path=path)]
  if missing:
    return f'SLURM is missing ({", ".join(missing)}): {INSTALL}'
  return '' if os.geteuid() == 0 else 'the daemons of SLURM need root'


class Slurm:
  """A running cluster.

  Attributes:
    folder: its folder.
    environment: the environment in which the commands of SLURM find it.
  """

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    host = socket.gethostname().partition('.')[0]
    (folder / 'state').mkdir()
    for node in NODES:
      (folder / f'spool-{node}').mkdir()
    conf = _CONF.format(host=host, folder=folder, ports=[free_port() for _ in range(3)])
    (folder / 'slurm.conf').write_text(conf)
    (folder / 'gres.conf').write_text(_GRES.format(folder=folder))
    for gpu in range(4):
      (folder / f'gpu{gpu}').touch()
    (folder / 'hosts').write_text(
      pathlib.Path('/etc/hosts').read_text() + f'\n127.0.0.1 {" ".join(NODES)}\n'
    )
    (folder / 'munge.key').write_bytes(os.urandom(1024))
    (folder / 'munge.key').chmod(0o400)
    self.environment = os.environ | {
      'SLURM_CONF': str(folder / 'slurm.conf'),
      'PATH': f'{os.environ["PATH"]}:/usr/sbin:/sbin',
    }
    self._daemons: list[subprocess.Popen] = []

  def start(self) -> None:
    files = {'key-file': 'key', 'socket': 'socket', 'pid-file': 'pid', 'log-file': 'log'}
    files |= {'seed-file': 'seed'}
    options = [f'--{name}={self.folder}/munge.{end}' for name, end in files.items()]
    self._daemon('munged', '--foreground', '--force', *options)
    self._wait(lambda: (self.folder / 'munge.socket').exists(), 'munged does not listen')
    self._daemon('slurmctld', '-D')
    for node in NODES:
      self._daemon('slurmd', '-D', '-N', node)
    self._wait(
      lambda: self.run('sinfo', '-h', '-o', '%T', check=False).strip() == 'idle',
      'the nodes are not idle',
    )

  def _daemon(self, *command: str) -> None:
    """Starts a daemon in a mount namespace in which /etc/hosts is that of the folder."""
    script = f'mount --bind {self.folder}/hosts /etc/hosts && exec "$@"'
    line = ['unshare', '--mount', 'sh', '-c', script, 'sh', *command]
    with (self.folder / f'{command[0]}-{len(self._daemons)}.out').open('w') as out:
      daemon = subprocess.Popen(line, env=self.environment, stdout=out, stderr=subprocess.STDOUT)
    self._daemons.append(daemon)

  def _wait(self, condition, what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
      assert time.monotonic() < deadline, f'{what}:\n{self.logs()}'
      time.sleep(0.1)

  def logs(self) -> str:
    """Returns the ends of the daemons' logs."""
    paths = sorted([*self.folder.glob('*.log'), *self.folder.glob('*.out')])
    return '\n'.join(f'{path.name}:\n{path.read_text()[-2000:]}' for path in paths)

  def stop(self) -> None:
    self.run('scancel', '--full', '--signal=KILL', '--user=root', check=False)
    for daemon in reversed(self._daemons):
      daemon.terminate()
      try:
        daemon.wait(20)
      except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()

  def run(self, *command: str, check: bool = True, cwd: pathlib.Path | None = None) -> str:
    """Runs a command of SLURM and returns its standard output."""
    done = subprocess.run(
      command, env=self.environment, cwd=cwd, capture_output=True, text=True, timeout=60
    )
    assert not check or done.returncode == 0, f'{command}: {done.stderr}\n{self.logs()}'
    return done.stdout

  def job(self, number: str) -> dict[str, str]:
    """Returns what SLURM knows about a job."""
    text = self.run('scontrol', '--oneliner', 'show', 'job', number)
    return dict(word.partition('=')[::2] for word in text.split() if '=' in word)

  def wait_for(self, number: str, *states: str) -> dict[str, str]:
    """Waits until a job is in one of some states and returns what SLURM knows about it."""
    deadline = time.monotonic() + TIMEOUT
    while (job := self.job(number))['JobState'] not in states:
      assert time.monotonic() < deadline, f'{job}\n{self.logs()}'
      time.sleep(0.2)
    return job


@contextlib.contextmanager
def cluster(folder: pathlib.Path) -> Iterator[Slurm]:
  """Starts a cluster in an empty folder, and stops it at the end."""
  slurm = Slurm(folder)
  try:
    slurm.start()
    yield slurm
  finally:
    slurm.stop()


def processes(variable: str, value: str, word: str) -> list[int]:
  """Returns the ids of processes with a variable in their environment and a word in their command."""
  found = []
  for folder in pathlib.Path('/proc').glob('[0-9]*'):
    try:
      environment = (folder / 'environ').read_bytes().split(b'\0')
      line = (folder / 'cmdline').read_bytes()
    except OSError:
      continue  # the process has ended
    if f'{variable}={value}'.encode() in environment and word.encode() in line:
      found.append(int(folder.name))
  return found
