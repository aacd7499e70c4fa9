"""The code that the fuzzers test: a run up to its first step, and every reader of user files."""

from collections.abc import Callable
import contextlib
import pathlib

import jax
from ml_collections import FrozenConfigDict
import numpy as np

from alexnet_jax import config as config_lib
from alexnet_jax import models, steps
from alexnet_jax.cli.flags import Options
from alexnet_jax.data import Statistics, open_dataset
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.errors import UserError
from alexnet_jax.interop import caffe, cuda_convnet, importer
from alexnet_jax.steps import optimizer, schedules
from alexnet_jax.training.run import resolve
from alexnet_jax.utils import atomic_io
from alexnet_jax.workdir import archive

Reader = Callable[[bytes], bool]


def prepare_to_train(options: Options) -> dict:
  """Does all that training does before it compiles a step, from validation to the shapes of the step."""
  config = options.config
  config_lib.validate(config)
  models.layer_table(config.model)
  mesh = mesh_lib.make_mesh(config)
  with contextlib.closing(open_dataset(config.data, config.seed)) as dataset:
    config = resolve(config, dataset)
    total = schedules.total_steps(config, dataset.num_train)
    state = steps.abstract_state(config, mesh)
    for step in {0, total // 2, total - 1}:
      epoch = step * config.train.batch_size / dataset.num_train
      rates = schedules.rates(config.optim, step, epoch, step / total, schedules.ScheduleState())
      optimizer.rate_tree(config.optim, state.params, *rates, epoch)
    batch = next(dataset.train_batches(0, config.train.batch_size))
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), dict(batch))
    scalar = jax.ShapeDtypeStruct((), np.float32)
    size = config.data.canvas.size
    statistics = Statistics(
      *(jax.ShapeDtypeStruct(shape, np.float32) for shape in ((size, size, 3), (3, 3), (3,)))
    )
    trees = jax.tree.map(lambda _: scalar, state.params)
    jax.eval_shape(steps.make_train_step(config, mesh), state, abstract, trees, scalar, statistics)
  return {'steps': total}


def readers(folder: str) -> dict[str, tuple[bytes, Reader]]:
  """Maps names to an intact file and a function that reads bytes and returns whether they were refused."""
  root = pathlib.Path(folder)
  array = np.arange(6, dtype=np.float32).reshape(2, 3)
  intact, read = {}, {}

  def add(name: str, make: Callable[[pathlib.Path], None], use: Callable[[str], object]) -> None:
    path = root / name
    make(path)
    intact[name] = path.read_bytes()

    def read_bytes(data: bytes) -> bool:
      path.write_bytes(data)
      return refuses(lambda: use(str(path)))

    read[name] = read_bytes

  metadata = {'format': archive.FORMAT, 'version': archive.VERSION, 'config': '{}'}
  add(
    'weights.safetensors',
    lambda path: archive.write_tensors(str(path), {'params/a': array}, metadata),
    lambda path: (archive.read_metadata(path), archive.read_tensors(path)),
  )
  add('weights.npz', lambda path: np.savez(path, a=array), cuda_convnet.read)
  add('mean.npy', lambda path: np.save(path, array), lambda path: importer._mean(path, 3, 'rgb'))
  add('weights.caffemodel', write_caffemodel, caffe.read)
  add(
    'classes.txt',
    lambda path: path.write_text('a\nb\nc\n'),
    lambda path: importer._read_classes(path, 3),
  )
  add(
    config_lib.FILE,
    lambda path: path.write_text(config_lib.to_json(train_config())),
    lambda path: config_lib.validate(FrozenConfigDict(config_lib.load_workdir(root))),
  )
  sealed = root / 'sealed'
  sealed.mkdir()
  (sealed / 'data').write_bytes(bytes(100))
  atomic_io.seal(sealed, {'step': 1})
  add(
    f'sealed/{atomic_io.MANIFEST}',
    lambda path: None,
    lambda path: as_user_error(atomic_io.check, sealed),
  )
  return {name: (intact[name], read[name]) for name in intact}


def refuses(use: Callable[[], object]) -> bool:
  """Returns whether a reader raises a UserError, and checks that the message has one line."""
  try:
    use()
  except UserError as error:
    assert str(error) and '\n' not in str(error).strip()
    return True
  return False


def as_user_error(check: Callable, *args) -> None:
  """Converts the ValueError for a damaged checkpoint to a UserError, so that it counts as a refusal."""
  try:
    check(*args)
  except ValueError as error:
    raise UserError(str(error)) from None


def train_config():
  from tiny import tiny_config

  return tiny_config()


def write_caffemodel(path: pathlib.Path) -> None:
  import sys

  sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / 'interop'))
  from caffemodel import caffemodel

  path.write_bytes(caffemodel({'conv1': [np.ones((2, 3, 1, 1)), np.ones(2)]}))
