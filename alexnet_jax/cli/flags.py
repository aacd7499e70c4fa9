"""Reads the command line: the flags, the config and its overrides, and what the mode requires."""

from collections.abc import Mapping, Sequence
import dataclasses
import os

from absl import flags
from ml_collections import ConfigDict, config_flags

from alexnet_jax import config as config_lib
from alexnet_jax.cli.declarations import FLAGS, HELP, MODES, PATHS, REQUIRED
from alexnet_jax.distributed import cluster as cluster_lib
from alexnet_jax.errors import UserError
from alexnet_jax.utils.suggestion import suggest


@dataclasses.dataclass(frozen=True)
class Options:
  """The command line after parsing. A field without a comment is the flag of the same name."""

  mode: str
  workdir: str  # or the .safetensors file of --weights
  config: ConfigDict
  checkpoint: str
  checkpoints: tuple[str, ...]
  weights: tuple[float, ...]  # of --checkpoints
  search_weights: bool
  file: str  # --weights of --mode=import
  images: tuple[str, ...]
  output: str
  picture: str
  layer: str
  split: str
  shard: str
  format: str
  mean: str
  classes: str
  channels: str
  cluster: cluster_lib.Cluster | None  # None: this is the only process
  peer_timeout: int
  dry_run: bool
  sweep: str
  features: str
  images_per_s: int | None
  devices_per_host: int
  host: str
  port: int
  argv: tuple[str, ...]  # the whole command line, without the name of the program


def take(argv: Sequence[str], name: str) -> tuple[str, list[str]]:
  """Takes `--name=value` or `--name value` out of `argv`.

  Returns:
    The value of the last occurrence, '' if there is none, and the other arguments.
  """
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


def expand_home(argv: Sequence[str]) -> list[str]:
  """Replaces `~` at the start of the paths of flags: a shell leaves `--workdir=~/runs` as it is."""
  expanded = []
  for arg in argv:
    flag, equals, value = arg.partition('=')
    if equals and flag.lstrip('-') in PATHS:
      value = ','.join(map(os.path.expanduser, value.split(',')))
    expanded.append(flag + equals + value)
  return expanded


def _check_names(argv: Sequence[str]) -> None:
  """Raises UserError for an unknown flag."""
  known = ('config', *FLAGS, *HELP)
  for arg in argv:
    name = arg.lstrip('-').partition('=')[0].partition('.')[0]
    if arg.startswith('--') and name not in known:
      raise UserError(f'unknown flag --{name}: {suggest(name, known)}')


def _check_keys(config: ConfigDict, argv: Sequence[str]) -> None:
  """Raises UserError for a `--config.KEY` that the config lacks."""
  for arg in argv:
    prefix, _, path = arg.partition('=')[0].partition('.')
    if prefix != '--config':
      continue
    if path == 'recipe':
      raise UserError(
        'config.recipe only names the recipe: choose another one behind the config file, as in '
        '--config=configs/alexnet.py:caffe'
      )
    group = config
    for key in path.split('.'):
      if not isinstance(group, ConfigDict):
        raise UserError(f'unknown config key config.{path}: it is inside a key that has a value')
      if key not in group:
        hint = suggest(key, sorted(group), 'the same command with --helpfull lists the keys')
        raise UserError(f'unknown config key config.{path}: {hint}')
      group = group[key]


def _check_required(mode: str, given: Mapping[str, str]) -> None:
  """Raises UserError if a flag that the mode requires is absent."""
  for name, what in REQUIRED.get(mode, {}).items():
    if not given[name]:
      raise UserError(f'--mode={mode} needs --{name}: name {what}')


def _load_config(mode: str, spec: str, given: Mapping[str, str]) -> ConfigDict:
  """Returns the config before overrides: that of --config, or what the mode starts from without it."""
  if spec:
    return config_lib.load_file(spec)
  if mode == 'train':
    raise UserError('--config is missing: give one, as in --config=configs/quickstart.py')
  if mode == 'import':
    from alexnet_jax.interop import importer

    return importer.default_config(given['format'], given['weights'])
  if given['workdir'].lower().endswith('.safetensors'):
    from alexnet_jax.workdir import archive

    return archive.read_config(given['workdir'])
  if given['workdir']:
    return config_lib.load_workdir(given['workdir'])
  return config_lib.load_file('alexnet')


def _define(config: ConfigDict, argv: list[str]) -> flags.FlagValues:
  """Declares all flags, and those of the config's keys, to absl, which reads their values."""
  values = flags.FlagValues()
  config_flags.DEFINE_config_dict('config', config, '', flag_values=values, sys_argv=argv)
  for name, flag in FLAGS.items():
    default, meaning, minimum = flag.default, flag.text, flag.minimum
    if isinstance(default, bool):
      flags.DEFINE_bool(name, default, meaning, flag_values=values)
    elif isinstance(default, tuple):
      flags.DEFINE_list(name, list(default), meaning, flag_values=values)
    elif isinstance(default, str):
      flags.DEFINE_string(name, default, meaning, flag_values=values)
    else:
      flags.DEFINE_integer(name, default, meaning, minimum, flag_values=values)
  return values


def parse(argv: Sequence[str]) -> Options:
  """Reads a command line.

  Args:
    argv: the arguments, without the name of the program and without --help.

  Raises:
    UserError: a flag, a key or a mode is unknown, a value has the wrong type, or a flag is missing.
  """
  argv = expand_home(argv)
  _check_names(argv)
  spec, rest = take(argv, 'config')
  given = {name: take(rest, name)[0] for name in FLAGS}
  mode = given['mode'] or 'train'
  if mode not in MODES:
    raise UserError(f'--mode={mode}: {suggest(mode, MODES)}')
  given['workdir'] = _network(mode, given)
  _check_required(mode, given)
  config = _load_config(mode, spec, given)
  _check_keys(config, rest)
  everything = ['main.py', *_last_of_tuples(config, rest)]
  try:
    values = _define(config, everything)
    extra = values(everything)[1:]
  except (flags.Error, KeyError, AttributeError, TypeError, ValueError) as error:
    raise UserError(' '.join(str(error).split())) from None
  if extra:
    raise UserError(f'{extra[0]!r} is not a flag: flags are written --name=value')
  _check_modes(values, mode)
  _check_together(values, mode)
  return _options(values, mode, given['workdir'], argv)


def _last_of_tuples(config: ConfigDict, argv: Sequence[str]) -> list[str]:
  """Keeps the last of repeated flags for a tuple. As for other values it counts; absl would join them."""
  kept = list(argv)
  for key, value in config_lib.flatten(config).items():
    if isinstance(value, tuple):
      last, others = take(kept, f'config.{key}')
      kept = [*others, f'--config.{key}={last}'] if last else kept
  return kept


def _network(mode: str, given: Mapping[str, str]) -> str:
  """Returns the workdir or the .safetensors file that the command reads, or the workdir that it writes.

  Raises:
    UserError: --weights names no such file, or two flags name networks.
  """
  weights = given['weights']
  if given['checkpoints']:
    if given['workdir'] and mode == 'eval':
      raise UserError(
        '--workdir and --checkpoints both name networks: leave --workdir out, or add it to --checkpoints'
      )
    return given['checkpoints'].split(',')[0]
  if mode == 'import' or mode not in FLAGS['weights'].modes or not weights:
    return given['workdir']
  if given['workdir']:
    raise UserError('--workdir and --weights both name a network: leave one of them out')
  if not weights.lower().endswith('.safetensors'):
    numbers = ', or name several networks with --checkpoints' if mode == 'eval' else ''
    raise UserError(f'--weights={weights}: name a .safetensors file of --mode=export{numbers}')
  return weights


def _check_modes(values: flags.FlagValues, mode: str) -> None:
  """Raises UserError for a flag that the mode does not use."""
  for name, flag in FLAGS.items():
    is_set = values[name].value not in (flag.default, '', [])
    if flag.modes and mode not in flag.modes and is_set:
      hint = '; divide the work with --shard=i/n' if name == 'distributed' else ''
      raise UserError(
        f'--mode={mode} does not use --{name}, which belongs to {", ".join(flag.modes)}: leave it out{hint}'
      )


def _check_together(values: flags.FlagValues, mode: str) -> None:
  """Raises UserError for flags that exclude each other, or that are missing."""
  if values.images and values.split not in ('', FLAGS['split'].default):
    raise UserError('--images and --split both name images: leave one of them out')
  if values.devices_per_host != FLAGS['devices_per_host'].default and not values.images_per_s:
    raise UserError('--devices_per_host is used with --images_per_s: add it')
  if values.sweep and (values.distributed or values.dry_run):
    raise UserError(
      '--sweep cannot be combined with --distributed or --dry_run: leave one of them out'
    )
  if mode == 'train' and not values.workdir and not values.dry_run:
    raise UserError('--workdir is missing: name the folder for checkpoints and logs')


def _options(values: flags.FlagValues, mode: str, workdir: str, argv: Sequence[str]) -> Options:
  """Returns the options that absl read; an empty value of a flag stands for its default."""
  return Options(
    mode=mode,
    workdir=workdir,
    config=values.config,
    checkpoint=values.checkpoint or FLAGS['checkpoint'].default,
    checkpoints=tuple(values.checkpoints),
    weights=_numbers(values.weights) if values.checkpoints else (),
    search_weights=values.search_weights,
    file=take(argv, 'weights')[0] if mode == 'import' else '',
    images=tuple(values.images),
    output=values.output or '',
    picture=values.picture or '',
    layer=values.layer or FLAGS['layer'].default,
    split=values.split or FLAGS['split'].default,
    shard=values.shard or '',
    format=values.format or '',
    mean=values.mean or '',
    classes=values.classes or '',
    channels=values.channels or '',
    cluster=_cluster(values),
    peer_timeout=values.peer_timeout,
    dry_run=values.dry_run,
    sweep=values.sweep or '',
    features=values.features or '',
    images_per_s=values.images_per_s,
    devices_per_host=values.devices_per_host,
    host=values.host or FLAGS['host'].default,
    port=values.port,
    argv=tuple(argv),
  )


def _numbers(weights: Sequence[str]) -> tuple[float, ...]:
  try:
    return tuple(float(weight) for weight in weights)
  except ValueError:
    raise UserError(f'--weights={",".join(weights)}: write numbers, as in 1,0.5') from None


def _cluster(values: flags.FlagValues) -> cluster_lib.Cluster | None:
  """Returns the processes of --distributed; raises UserError if they are described without that flag."""
  explicit = values.coordinator, values.num_processes, values.process_id
  if values.distributed:
    return cluster_lib.find(*explicit)
  names = 'coordinator', 'num_processes', 'process_id', 'peer_timeout'
  for name, value in zip(names, (*explicit, values.peer_timeout), strict=True):
    if value not in ('', FLAGS[name].default):
      raise UserError(f'--{name} describes several processes: add --distributed')
  return None
