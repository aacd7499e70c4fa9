"""The command line: reads flags, config and mode, does the work, and prints one line of JSON."""

from collections.abc import Callable, Sequence
import errno
import json
import os
import sys
import traceback
from typing import TYPE_CHECKING

from alexnet_jax.cli import usage
from alexnet_jax.distributed import cluster as cluster_lib
from alexnet_jax.errors import Preempted, RunError, UserError, is_memory
from alexnet_jax.utils import atomic_io, console, memory

if TYPE_CHECKING:
  from alexnet_jax.cli.flags import Options

DONE, BUG, USER_ERROR, RUN_FAILED, PREEMPTED, INTERRUPTED = 0, 1, 2, 3, 75, 130
_SMALLER = (
  'raise config.micro_batches, lower config.eval.batch_size or, for the host, config.data.cache_mib; a lower '
  'config.train.batch_size, and for a set in TFRecord files another cache_mib, needs a new workdir'
)
# The errors of a path that the user named.
_PATHS = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)

Result = dict[str, object]  # what a mode prints as JSON

# There is one function for each mode. They import modules late, so that --help and errors appear quickly.


def _train(options: 'Options') -> Result:
  if options.dry_run:
    from alexnet_jax.training.dry_run import dry_run

    return dry_run(options.config, options.workdir)
  if options.sweep:
    from alexnet_jax.cli import sweep

    return sweep.run(options)
  from alexnet_jax.training.loop import train

  return train(options.config, options.workdir)


def _eval(options: 'Options') -> Result:
  from alexnet_jax.evaluation.evaluate import evaluate

  return evaluate(
    options.config,
    options.checkpoints or (options.workdir,),
    which=options.checkpoint,
    weights=options.weights,
    search=options.search_weights,
    output=options.output,
  )


def _config(options: 'Options') -> Result:
  from alexnet_jax import config as config_lib

  config_lib.validate(options.config)
  for key, value in config_lib.flatten(options.config).items():
    print(f'{key} = {value!r}', file=sys.stderr)
  return options.config.to_dict()


def _describe(options: 'Options') -> Result:
  from alexnet_jax.evaluation.describe import describe

  return describe(options.config, options.images_per_s, options.devices_per_host)


def _prepare(options: 'Options') -> Result:
  from alexnet_jax.data.prepare import prepare

  return prepare(options.config, output=options.output, shard=options.shard)


def _predict(options: 'Options') -> Result:
  from alexnet_jax.inference.predict import predict

  return predict(
    options.config,
    options.workdir,
    images=options.images,
    which=options.checkpoint,
    picture=options.picture,
    output=options.output,
  )


def _features(options: 'Options') -> Result:
  from alexnet_jax.inference.features import features

  return features(
    options.config,
    options.workdir,
    layer=options.layer,
    output=options.output,
    images=options.images,
    split=options.split,
    which=options.checkpoint,
  )


def _import(options: 'Options') -> Result:
  from alexnet_jax.interop.importer import import_network

  return import_network(
    options.config,
    options.workdir,
    form=options.format,
    weights=options.file,
    mean=options.mean,
    classes=options.classes,
    channels=options.channels,
  )


def _export(options: 'Options') -> Result:
  from alexnet_jax.interop.exporter import export_network

  return export_network(
    options.config,
    options.workdir,
    form=options.format,
    output=options.output,
    which=options.checkpoint,
  )


def _serve(options: 'Options') -> Result:
  from alexnet_jax.utils.optional_import import import_module

  import_module('starlette', 'serve', '--mode=serve')
  import_module('uvicorn', 'serve', '--mode=serve')
  from alexnet_jax.serve.app import serve

  return serve(
    options.config,
    options.workdir,
    which=options.checkpoint,
    features=options.features,
    host=options.host,
    port=options.port,
  )


def _report(options: 'Options') -> Result:
  from alexnet_jax.report.page import report

  return report(options.config, options.workdir, which=options.checkpoint, output=options.output)


_WORK: dict[str, Callable[['Options'], Result]] = {
  'train': _train,
  'eval': _eval,
  'config': _config,
  'describe': _describe,
  'prepare': _prepare,
  'predict': _predict,
  'features': _features,
  'import': _import,
  'export': _export,
  'serve': _serve,
  'report': _report,
}


def run(options: 'Options') -> Result:
  """Does what the mode asks for and returns the result that is printed as JSON."""
  return _WORK[options.mode](options)


def main(argv: Sequence[str], work: Callable[['Options'], Result] = run) -> int:
  """Runs a command line and returns its exit code.

  The exit codes are 0 (done), 2 (user's mistake, explained in one line on stderr), 3 (the run failed), 75
  (preempted; the same command resumes) and 130 (interrupted). A bug raises, so Python prints a traceback and
  exits with 1. With --distributed, this process supervises a child process that does the work.

  Args:
    argv: the arguments, without the name of the program.
    work: what is done with the parsed command line.
  """
  console.setup()
  try:
    if usage.show(argv):
      return DONE
    from alexnet_jax.cli.flags import parse

    options = parse(argv)
  except UserError as error:
    console.say_error(error)
    return USER_ERROR
  if not options.cluster:
    _ready()
    return _guard(lambda: print(json.dumps(work(options))), options.mode)
  from alexnet_jax.distributed import supervisor

  cluster = options.cluster
  if not supervisor.is_child():
    return supervisor.supervise(cluster, resumes=options.mode == 'train')
  supervisor.follow_parent()
  _ready(keeps_programs=cluster.processes == 1)
  code = _guard(lambda: _work_with_others(options, cluster, work), options.mode)
  if code != DONE:
    supervisor.leave(code)
  return code


def _ready(keeps_programs: bool = True) -> None:
  from alexnet_jax.utils import compilation_cache

  memory.keep_freed_memory()
  if keeps_programs:
    compilation_cache.keep_programs()


def _work_with_others(
  options: 'Options',
  cluster: cluster_lib.Cluster,
  work: Callable[['Options'], Result],
) -> None:
  """Does the work as one of several processes; process 0 prints the result."""
  from alexnet_jax.distributed import multihost, supervisor

  stdout = os.fdopen(os.dup(sys.stdout.fileno()), 'w')
  os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # C++ libraries print to stdout, too.
  multihost.join(cluster, options.peer_timeout, stops_at_a_step=options.mode == 'train')
  if not multihost.is_primary():
    console.warnings_only()
  try:
    result = work(options)
  except Exception as error:
    if (
      isinstance(error, UserError | RunError | Preempted) or _has_remedy(error) or is_memory(error)
    ):
      raise
    supervisor.await_verdict(error, options.peer_timeout)
    traceback.print_exc()
    supervisor.leave(BUG)
  if multihost.is_primary():
    try:
      print(json.dumps(result), file=stdout, flush=True)
    except OSError as error:
      if error.errno not in (errno.EPIPE, errno.EIO):  # nobody reads the result of this run
        raise


def _has_remedy(error: Exception) -> bool:
  return isinstance(error, OSError) and error.errno in (*atomic_io.REMEDIES, *_PATHS)


def _guard(work: Callable[[], None], mode: str) -> int:
  """Calls `work` and turns an expected error into one line on stderr and an exit code."""
  try:
    work()
  except UserError as error:
    console.say_error(error)
    return USER_ERROR
  except RunError as error:
    console.say_error(error)
    return RUN_FAILED
  except Preempted as error:
    print(str(error), file=sys.stderr)
    return PREEMPTED
  except KeyboardInterrupt:
    resumes = ': the same command resumes from the latest checkpoint' if mode == 'train' else ''
    print(f'interrupted{resumes}', file=sys.stderr)
    return INTERRUPTED
  except (MemoryError, RuntimeError) as error:
    if not is_memory(error):
      raise
    text = ' '.join(str(error).split())[:120]
    print(f'error: out of memory ({text}): {_SMALLER}', file=sys.stderr)
    return RUN_FAILED
  except OSError as error:
    if not _has_remedy(error):
      raise
    if error.errno in _PATHS:
      console.say_error(f'{error}: check its permissions, or name another path')
      return USER_ERROR
    remedy = atomic_io.REMEDIES[error.errno or 0]
    console.say_error(f'{error}: {remedy}, then run the same command again')
    return RUN_FAILED
  return DONE


def entry_point() -> None:
  """Runs the installed command `alexnet-jax`, which is equal to main.py."""
  try:
    code = main(sys.argv[1:])
  except KeyboardInterrupt:  # before there was anything to interrupt
    code = INTERRUPTED
  except ModuleNotFoundError as error:
    if (error.name or '').startswith('alexnet_jax'):
      raise
    console.say_error(
      f'the package {error.name} is not installed: activate the environment (. .venv/bin/activate), or '
      'install the packages (pip install -c constraints.txt -r requirements.txt)'
    )
    code = USER_ERROR
  # After a failure, threads of libraries may wait forever, so the process ends without them.
  if code == RUN_FAILED:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  sys.exit(code)
