"""The command line: flags, config and mode in; one line of JSON and an exit code out."""

from collections.abc import Callable, Sequence
import dataclasses
import difflib
import errno
import json
import os
import sys
import traceback

from absl import flags
from ml_collections import ConfigDict, config_flags

from alexnet_jax import config as config_lib
from alexnet_jax import distributed, memory, supervisor
from alexnet_jax.errors import Preempted, RunError, UserError

MODES = (
  'train', 'eval', 'describe', 'prepare', 'predict', 'features', 'import', 'export', 'report',
)  # fmt: skip
FLAGS = (
  'config', 'workdir', 'mode', 'checkpoint', 'checkpoints', 'weights', 'output', 'shard', 'distributed',
  'coordinator', 'num_processes', 'process_id', 'peer_timeout', 'help', 'helpfull',
  'images', 'layer', 'split', 'format', 'mean', 'classes',
)  # fmt: skip
DONE, BUG, USER_ERROR, RUN_FAILED, PREEMPTED, INTERRUPTED = 0, 1, 2, 3, 75, 130
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


@dataclasses.dataclass(frozen=True)
class Options:
  """The command line, read."""

  mode: str
  workdir: str
  config: ConfigDict
  checkpoint: str
  checkpoints: tuple[str, ...]
  weights: tuple[float, ...]
  cluster: distributed.Cluster | None = None  # None: this process works alone
  peer_timeout: int = 0  # seconds after which a silent process counts as lost
  output: str = ''
  shard: str = ''
  images: tuple[str, ...] = ()
  layer: str = ''
  split: str = ''
  format: str = ''
  file: str = ''  # of weights, of --mode=import
  mean: str = ''
  classes: str = ''


def _take(argv: Sequence[str], name: str) -> tuple[str, list[str]]:
  """Takes `--name=value` or `--name value` out of `argv`; the last one counts."""
  value, rest, args = '', [], iter(argv)
  for arg in args:
    flag, equals, tail = arg.partition('=')
    if flag not in (f'--{name}', f'-{name}'):
      rest.append(arg)
    elif equals:
      value = tail
    else:
      value = next(args, '')
  return value, rest


def _suggest(name: str, known: Sequence[str]) -> str:
  """`; did you mean X?`, or the names there are."""
  near = difflib.get_close_matches(name, known, 1)
  return f'did you mean {near[0]}?' if near else f'known are {", ".join(known)}'


def _check_names(argv: Sequence[str]) -> None:
  """Raises UserError for a flag that there is not."""
  for arg in argv:
    name = arg.lstrip('-').partition('=')[0].partition('.')[0]
    if arg.startswith('--') and name not in FLAGS:
      raise UserError(f'unknown flag --{name}: {_suggest(name, FLAGS)}')


def _check_keys(config: ConfigDict, argv: Sequence[str]) -> None:
  """Raises UserError for `--config.KEY` where the config has no such key."""
  for arg in argv:
    prefix, _, path = arg.partition('=')[0].partition('.')
    if prefix != '--config':
      continue
    room = config
    for key in path.split('.'):
      if not isinstance(room, ConfigDict) or key not in room:
        known = sorted(room) if isinstance(room, ConfigDict) else ()
        raise UserError(f'unknown config key config.{path}: {_suggest(key, known)}')
      room = room[key]


_TEXTS = {
  'output': 'What prepare, features and export are to make.',
  'layer': 'Of --mode=features: its name; fc7 if left out.',
  'split': 'Of --mode=features, without --images: validation (if left out) or train.',
  'format': 'Of import: torchvision, caffe, cuda_convnet, safetensors; of export: the same but caffe, '
  'and stablehlo, savedmodel.',
  'mean': 'Of --mode=import: R,G,B in grey levels, or a .binaryproto or .npy mean image.',
  'classes': 'Of --mode=import: a text file, the name of a class a line.',
}
_LISTS = {
  'images': 'Of predict and features: files, folders, globs.',
  'weights': 'Of --checkpoints: one a workdir. Of --mode=import: the file of weights.',
}


def _define(config: ConfigDict, argv: list[str]) -> flags.FlagValues:
  values = flags.FlagValues()
  config_flags.DEFINE_config_dict(
    'config',
    config,
    'Any key of the config: --config.key=value.',
    flag_values=values,
    sys_argv=argv,
  )
  flags.DEFINE_string('workdir', '', 'Folder of the run.', flag_values=values)
  flags.DEFINE_enum('mode', 'train', MODES, 'What to do.', flag_values=values)
  flags.DEFINE_string(
    'checkpoint', 'best', 'Of all modes that read one: best, latest or a step.', flag_values=values
  )
  flags.DEFINE_list(
    'checkpoints', [], 'Of --mode=eval: workdirs whose softmax is averaged.', flag_values=values
  )
  for name, what in _TEXTS.items():
    flags.DEFINE_string(name, '', what, flag_values=values)
  for name, what in _LISTS.items():
    flags.DEFINE_list(name, [], what, flag_values=values)
  flags.DEFINE_string(
    'shard', '', 'Of --mode=prepare: i/n, one of n parts of the work.', flag_values=values
  )
  flags.DEFINE_bool(
    'distributed',
    False,
    'Train with other processes: of SLURM, a JobSet, a Cloud TPU or as the next three flags say.',
    flag_values=values,
  )
  flags.DEFINE_string('coordinator', '', 'HOST[:PORT] of process 0.', flag_values=values)
  flags.DEFINE_integer('num_processes', None, 'How many there are.', 1, flag_values=values)
  flags.DEFINE_integer('process_id', None, 'Number of this one.', 0, flag_values=values)
  flags.DEFINE_integer(
    'peer_timeout',
    30,
    'Seconds of silence after which a process counts as lost.',
    1,
    flag_values=values,
  )
  flags.DEFINE_bool('help', False, 'Show this help.', flag_values=values, short_name='h')
  flags.DEFINE_bool('helpfull', False, 'Show this help.', flag_values=values)
  return values


def parse(argv: Sequence[str]) -> Options:
  """Reads the command line (without the program's name).

  Raises:
    UserError: an unknown flag, key or mode, a value of the wrong type, a missing config or workdir.
    SystemExit: after --help.
  """
  _check_names(argv)
  spec, rest = _take(argv, 'config')
  workdirs, _ = _take(rest, 'checkpoints')
  workdir = workdirs.split(',')[0] or _take(rest, 'workdir')[0]
  mode = _take(rest, 'mode')[0] or 'train'
  helping = {'--help', '-h', '--helpfull'} & set(rest)
  if mode not in MODES:
    raise UserError(f'--mode={mode}: choose one of {", ".join(MODES)}')
  if mode == 'eval' and not workdir and not helping:
    raise UserError('--mode=eval needs --workdir, the folder of a run, or --checkpoints')
  if not helping:
    _check_needed(mode, rest)
  if spec or helping:
    config = config_lib.load_file(spec or _default_config())
  elif mode == 'train':
    raise UserError('--config is missing: give one, as in --config=configs/quickstart.py')
  elif mode == 'import':
    from alexnet_jax.interop import networks

    config = networks.default_config(_take(rest, 'format')[0], _take(rest, 'weights')[0])
  elif workdir:
    config = config_lib.load_workdir(workdir)
  else:
    config = config_lib.load_file(_default_config())
  _check_keys(config, rest)
  argv = ['main.py', *rest]
  try:
    values = _define(config, argv)
    extra = values(argv)[1:]
  except (flags.Error, KeyError, AttributeError, TypeError, ValueError) as error:
    raise UserError(' '.join(str(error).split())) from None
  if helping:
    print(
      f'Usage: python main.py --config=configs/NAME.py --workdir=DIR\n{values}', file=sys.stderr
    )
    raise SystemExit(DONE)
  if extra:
    raise UserError(f'{extra[0]!r} is not a flag: flags are written --name=value')
  if mode == 'train' and not values.workdir:
    raise UserError('--workdir is missing: name the folder for checkpoints and logs')
  if mode == 'prepare' and not values.output:
    raise UserError('--output is missing: name the folder of the store to make')
  if values.distributed and mode not in ('train', 'eval', 'describe'):
    hint = '; share the work out with --shard=i/n' if mode == 'prepare' else ''
    raise UserError(f'--mode={mode} is for one process: leave --distributed out{hint}')
  file = ','.join(values.weights)
  try:
    weights = () if mode == 'import' else tuple(float(weight) for weight in values.weights)
  except ValueError:
    raise UserError(f'--weights={file}: write numbers, as in 1,0.5') from None
  return Options(
    mode,
    values.workdir,
    values.config,
    values.checkpoint,
    tuple(values.checkpoints),
    weights,
    _cluster(values),
    values.peer_timeout,
    values.output,
    values.shard,
    tuple(values.images),
    values.layer or 'fc7',
    values.split or 'validation',
    values.format,
    file if mode == 'import' else '',
    values.mean,
    values.classes,
  )


# What each of these modes cannot do without: the flag, and what it is to name.
_NEEDED = {
  'predict': {'workdir': 'the folder of a run', 'images': 'files, folders or a glob'},
  'report': {'workdir': 'the folder of a run'},
  'features': {'workdir': 'the folder of a run', 'output': 'the .npz file to write'},
  'import': {
    'format': 'torchvision, caffe, cuda_convnet or safetensors',
    'weights': 'the file of weights',
    'workdir': 'the folder to make',
  },
  'export': {
    'workdir': 'the folder of a run',
    'format': 'torchvision, cuda_convnet, safetensors, stablehlo or savedmodel',
    'output': 'the file to write',
  },
}


def _check_needed(mode: str, argv: Sequence[str]) -> None:
  for name, what in _NEEDED.get(mode, {}).items():
    if not _take(argv, name)[0]:
      raise UserError(f'--mode={mode} needs --{name}: name {what}')


def _cluster(values: flags.FlagValues) -> distributed.Cluster | None:
  """The cluster of `--distributed`; the flags that describe one need it."""
  explicit = values.coordinator, values.num_processes, values.process_id
  if values.distributed:
    return distributed.find(*explicit)
  for name, value in zip(('coordinator', 'num_processes', 'process_id'), explicit, strict=True):
    if value not in ('', None):
      raise UserError(f'--{name} is for several processes: add --distributed')
  return None


def _default_config() -> str:
  here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
  return os.path.join(here, 'configs', 'alexnet.py')


def run(options: Options) -> dict[str, object]:
  """Does what the mode says and returns its JSON. Imports late, so that --help and errors are quick."""
  if options.mode == 'describe':
    from alexnet_jax.describe import describe

    return describe(options.config)
  if options.mode == 'eval':
    from alexnet_jax.evaluate import evaluate

    workdirs = options.checkpoints or (options.workdir,)
    return evaluate(options.config, workdirs, options.checkpoint, options.weights)
  if options.mode == 'prepare':
    from alexnet_jax.data.prepare import prepare

    return prepare(options.config, options.output, options.shard)
  if options.mode in ('predict', 'features'):
    from alexnet_jax import predict

    place = options.config, options.workdir
    if options.mode == 'predict':
      return predict.predict(*place, options.images, options.checkpoint)
    asked = options.layer, options.output, options.images, options.split
    return predict.features(*place, *asked, options.checkpoint)
  if options.mode == 'report':
    from alexnet_jax.report.page import report

    return report(options.config, options.workdir, options.checkpoint)
  if options.mode in ('import', 'export'):
    from alexnet_jax.interop import networks

    place = options.config, options.workdir, options.format
    if options.mode == 'import':
      return networks.import_network(*place, options.file, options.mean, options.classes)
    return networks.export_network(*place, options.output, options.checkpoint)
  from alexnet_jax.train import train

  return train(options.config, options.workdir)


def main(argv: Sequence[str], work: Callable[[Options], dict[str, object]] = run) -> int:
  """Runs a command line and returns its exit code.

  0 done, 2 the user's mistake (one line on stderr), 3 the run failed, 75 preempted and resumable. A bug
  is left to Python: a traceback and 1. With --distributed this process is the parent of the one that works.
  """
  from alexnet_jax import logging

  logging.setup()
  try:
    options = parse(argv)
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return USER_ERROR
  if not options.cluster:
    memory.keep_freed_memory()
    return _guard(lambda: print(json.dumps(work(options))))
  if not supervisor.is_child():
    return supervisor.supervise(options.cluster)
  supervisor.follow_parent()
  memory.keep_freed_memory()
  code = _guard(lambda: _work_with_others(options, work))
  if code != DONE:
    supervisor.leave(code)
  return code


def _work_with_others(options: Options, work: Callable[[Options], dict[str, object]]) -> None:
  """Does the work as one process of several; process 0 prints the result."""
  stdout = os.fdopen(os.dup(sys.stdout.fileno()), 'w')
  os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # for what C++ libraries print there
  distributed.join(options.cluster, options.peer_timeout, stops_at_a_step=options.mode == 'train')
  if not distributed.is_primary():
    from absl import logging

    logging.set_verbosity(logging.WARNING)
  try:
    result = work(options)
  except Exception as error:
    if isinstance(error, UserError | RunError | Preempted) or _is_disk(error):
      raise
    supervisor.await_verdict(error, options.peer_timeout)
    traceback.print_exc()
    supervisor.leave(BUG)
  if distributed.is_primary():
    print(json.dumps(result), file=stdout, flush=True)


def _is_disk(error: Exception) -> bool:
  return isinstance(error, OSError) and error.errno in _DISK


def _guard(work: Callable[[], None]) -> int:
  """Calls `work` and turns what it raises into one line and an exit code."""
  try:
    work()
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return USER_ERROR
  except RunError as error:
    print(f'error: {error}', file=sys.stderr)
    return RUN_FAILED
  except Preempted as error:
    print(str(error), file=sys.stderr)
    return PREEMPTED
  except KeyboardInterrupt:
    print('interrupted: the same command goes on from what is saved', file=sys.stderr)
    return INTERRUPTED
  except OSError as error:
    if not _is_disk(error):
      raise
    print(f'error: {error}: free the disk, then run the same command again', file=sys.stderr)
    return RUN_FAILED
  return DONE


def entry_point() -> None:
  """The installed command `alexnet-jax`, equal to main.py."""
  sys.exit(main(sys.argv[1:]))
