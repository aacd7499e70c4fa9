"""The command line: flags, config and mode in; one line of JSON and an exit code out."""

from collections.abc import Callable, Sequence
import errno
import json
import os
import sys
import traceback

from alexnet_jax.cli.flags import Options, parse
from alexnet_jax.distributed import multihost, supervisor
from alexnet_jax.errors import Preempted, RunError, UserError
from alexnet_jax.utils import compilation_cache, console, memory

DONE, BUG, USER_ERROR, RUN_FAILED, PREEMPTED, INTERRUPTED = 0, 1, 2, 3, 75, 130
_SMALLER = 'lower config.train.batch_size, eval.batch_size or, for the host, data.cache_mib'
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def run(options: Options) -> dict[str, object]:
  """Does what the mode says and returns its JSON. Imports late, so that --help and errors are quick."""
  if options.mode == 'describe':
    from alexnet_jax.evaluation.describe import describe

    return describe(options.config)
  if options.mode == 'eval':
    from alexnet_jax.evaluation.evaluate import evaluate

    workdirs = options.checkpoints or (options.workdir,)
    how = options.checkpoint, options.weights, options.search_weights
    return evaluate(options.config, workdirs, *how)
  if options.mode == 'prepare':
    from alexnet_jax.data.prepare import prepare

    return prepare(options.config, options.output, options.shard)
  if options.mode in ('predict', 'features'):
    from alexnet_jax.inference import features as features_lib
    from alexnet_jax.inference import predict

    place = options.config, options.workdir
    if options.mode == 'predict':
      return predict.predict(*place, options.images, options.checkpoint, options.picture)
    split = options.images, options.split
    return features_lib.features(*place, options.layer, options.output, *split, options.checkpoint)
  if options.mode == 'serve':
    from alexnet_jax.serve.app import serve

    where = options.features, options.host, options.port
    return serve(options.config, options.workdir, options.checkpoint, *where)
  if options.mode == 'report':
    from alexnet_jax.report.page import report

    return report(options.config, options.workdir, options.checkpoint)
  if options.mode in ('import', 'export'):
    from alexnet_jax.interop import networks

    network = options.config, options.workdir, options.format
    if options.mode == 'import':
      known = options.mean, options.classes, options.channels
      return networks.import_network(*network, options.file, *known)
    return networks.export_network(*network, options.output, options.checkpoint)
  if options.dry_run:
    from alexnet_jax.training.dry_run import dry_run

    return dry_run(options.config)
  if options.sweep:
    from alexnet_jax.cli import sweep

    return sweep.run(options)
  from alexnet_jax.training.loop import train

  return train(options.config, options.workdir)


def main(argv: Sequence[str], work: Callable[[Options], dict[str, object]] = run) -> int:
  """Runs a command line and returns its exit code.

  0 done, 2 the user's mistake (one line on stderr), 3 the run failed, 75 preempted and resumable. A bug
  is left to Python: a traceback and 1. With --distributed this process is the parent of the one that works.
  """
  console.setup()
  try:
    options = parse(argv)
  except UserError as error:
    console.say_error(error)
    return USER_ERROR
  if not options.cluster:
    _ready()
    return _guard(lambda: print(json.dumps(work(options))))
  cluster = options.cluster
  if not supervisor.is_child():
    return supervisor.supervise(cluster)
  supervisor.follow_parent()
  _ready()
  code = _guard(lambda: _work_with_others(options, cluster, work))
  if code != DONE:
    supervisor.leave(code)
  return code


def _ready() -> None:
  memory.keep_freed_memory()
  compilation_cache.keep_programs()


def _work_with_others(
  options: Options,
  cluster: multihost.Cluster,
  work: Callable[[Options], dict[str, object]],
) -> None:
  """Does the work as one process of several; process 0 prints the result."""
  stdout = os.fdopen(os.dup(sys.stdout.fileno()), 'w')
  os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # for what C++ libraries print there
  multihost.join(cluster, options.peer_timeout, stops_at_a_step=options.mode == 'train')
  if not multihost.is_primary():
    console.warnings_only()
  try:
    result = work(options)
  except Exception as error:
    if isinstance(error, UserError | RunError | Preempted) or _is_disk(error):
      raise
    supervisor.await_verdict(error, options.peer_timeout)
    traceback.print_exc()
    supervisor.leave(BUG)
  if multihost.is_primary():
    print(json.dumps(result), file=stdout, flush=True)


def _is_disk(error: Exception) -> bool:
  return isinstance(error, OSError) and error.errno in _DISK


def _guard(work: Callable[[], None]) -> int:
  """Calls `work` and turns what it raises into one line and an exit code."""
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
    print('interrupted: the same command goes on from what is saved', file=sys.stderr)
    return INTERRUPTED
  except (MemoryError, RuntimeError) as error:
    if not isinstance(error, MemoryError) and 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    text = ' '.join(str(error).split())[:120]
    print(f'error: out of memory ({text}): {_SMALLER}', file=sys.stderr)
    return RUN_FAILED
  except OSError as error:
    if not _is_disk(error):
      raise
    console.say_error(f'{error}: free the disk, then run the same command again')
    return RUN_FAILED
  return DONE


def entry_point() -> None:
  """The installed command `alexnet-jax`, equal to main.py."""
  code = main(sys.argv[1:])
  if code == RUN_FAILED:  # threads of libraries may wait forever for what has failed
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  sys.exit(code)
