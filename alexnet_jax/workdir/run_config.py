"""The config of a run in its workdir: written by a new run, compared by a resumed one."""

from collections.abc import Mapping
import pathlib
import time

from ml_collections import ConfigDict, FrozenConfigDict

from alexnet_jax import config as config_lib
from alexnet_jax.data import Dataset
from alexnet_jax.distributed import multihost
from alexnet_jax.errors import UserError
from alexnet_jax.utils import atomic_io

_VISIBLE_WITHIN = 20  # seconds in which a network file system must show a new file to all hosts


def write_or_check(workdir: pathlib.Path, config: FrozenConfigDict, resumes: bool) -> None:
  """Writes `config` to WORKDIR/config.json; a run that resumes first compares it with the config there.

  Args:
    workdir: the folder of the run.
    config: the whole config.
    resumes: whether the workdir holds a checkpoint.

  Raises:
    UserError: the workdir holds a run of another config, or the processes do not agree on config or folder.
  """
  path = workdir / config_lib.FILE
  if path.exists() and resumes:
    config_lib.check_same_run(config_lib.load_workdir(workdir), config, workdir)
  text = config_lib.to_json(config)
  if not multihost.same_everywhere(text):
    raise UserError('the config differs between processes: start all of them with the same command')
  if multihost.is_primary():
    atomic_io.write(path, text)
  multihost.wait_for_all('config written')
  for _ in range(_VISIBLE_WITHIN):
    if path.exists() and path.read_text() == text:
      return
    time.sleep(1)
  raise UserError(
    f'--workdir={workdir} is not the same folder on every process: use a shared file system'
  )


def check_before_data(workdir: pathlib.Path, config: ConfigDict) -> None:
  """Compares the config of a run that will resume with that in its workdir, before the data are opened.

  The number of classes is left out if the config takes it from the data.

  Raises:
    UserError: the workdir holds a run of another config.
  """
  checkpoints = workdir / 'checkpoints'
  resumes = checkpoints.is_dir() and any(path.name.isdigit() for path in checkpoints.iterdir())
  if not resumes or not (workdir / config_lib.FILE).exists():
    return
  old, new = config_lib.load_workdir(workdir), config.copy_and_resolve_references()
  new.model.num_classes = new.model.num_classes or old.model.num_classes
  config_lib.check_same_run(old, new, workdir)


def check_same_data(
  workdir: pathlib.Path, config: FrozenConfigDict, dataset: Dataset, meta: Mapping
) -> None:
  """Compares the data set with the one that a checkpoint was trained on.

  Args:
    workdir: the folder of the run.
    config: the whole config.
    dataset: the open data set.
    meta: the metadata of the checkpoint (`Checkpoints.meta`).

  Raises:
    UserError: classes, numbers of images or, for a data set in memory, checksums differ.
  """
  here = {
    'classes': list(dataset.class_names),
    'training images': dataset.num_train,
    'validation images': dataset.num_validation,
  }
  there = {
    'classes': meta['class_names'],
    'training images': meta['num_train'],
    'validation images': meta['num_validation'],
  }
  changed = [
    f'{key}: {there[key]} there, {here[key]} here' for key in here if here[key] != there[key]
  ] or dataset.changed_since(meta.get('checksums', {}))
  if changed:
    raise UserError(
      f'the images of {config.data.source} are not those that {workdir} was trained on '
      f'({"; ".join(changed)}): restore them, or choose another workdir'
    )
