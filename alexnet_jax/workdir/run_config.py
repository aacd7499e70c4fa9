"""The config of a run in its workdir: written by a new run, compared by a resumed one."""

from collections.abc import Callable, Mapping
import pathlib
import time

from ml_collections import ConfigDict, FrozenConfigDict

from alexnet_jax import config as config_lib
from alexnet_jax.data import Dataset
from alexnet_jax.distributed import multihost
from alexnet_jax.errors import UserError
from alexnet_jax.utils import atomic_io
from alexnet_jax.workdir.checkpoint import FOLDER

# What is read, for each `Dataset.form`.
_FORMS = {'': 'encoded images', 'jpeg': 'JPEG canvases', 'raw': 'uncompressed canvases'}
_VISIBLE_WITHIN = 20  # seconds in which a network file system must show a new file to all hosts


def check(workdir: pathlib.Path, config: FrozenConfigDict, step: int | None) -> None:
  """Compares the config of a run that resumes with that in its workdir.

  Args:
    workdir: the folder of the run.
    config: the whole config.
    step: the newest checkpoint in the workdir of process 0, or None.

  Raises:
    UserError: the workdir holds a run of another config, or the processes do not agree on config or folder.
  """
  path = workdir / config_lib.FILE
  if path.exists() and step is not None:
    config_lib.check_same_run(config_lib.load_workdir(workdir), config, workdir)
  if not multihost.same_everywhere(config_lib.to_json(config)):
    raise UserError('the config differs between processes: start all of them with the same command')
  if step is not None:
    _wait_until(lambda: (workdir / FOLDER / str(step)).is_dir(), workdir)


def write(workdir: pathlib.Path, config: FrozenConfigDict) -> None:
  """Writes the whole config to WORKDIR/config.json.

  Raises:
    UserError: the workdir is not the same folder on all processes.
  """
  path, text = workdir / config_lib.FILE, config_lib.to_json(config)
  if multihost.is_primary():
    atomic_io.write(path, text)
  multihost.wait_for_all('config written')
  _wait_until(lambda: path.exists() and path.read_text() == text, workdir)


def _wait_until(visible: Callable[[], bool], workdir: pathlib.Path) -> None:
  """Waits until this process sees what process 0 has written; raises UserError if it never does."""
  for _ in range(_VISIBLE_WITHIN):
    if visible():
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
  checkpoints = workdir / FOLDER
  resumes = checkpoints.is_dir() and any(path.name.isdigit() for path in checkpoints.iterdir())
  if not resumes or not (workdir / config_lib.FILE).exists():
    return
  old, new = config_lib.load_workdir(workdir), config.copy_and_resolve_references()
  new.model.num_classes = new.model.num_classes or old.model.num_classes
  config_lib.check_same_run(old, new, workdir)


def check_checkpoint(
  workdir: pathlib.Path, config: FrozenConfigDict, dataset: Dataset, meta: Mapping
) -> None:
  """Compares the config and the data set with those that a checkpoint was trained with.

  The config is compared only if the workdir has no config.json, with which `check` compares it.

  Args:
    workdir: the folder of the run.
    config: the whole config.
    dataset: the open data set.
    meta: the metadata of the checkpoint (`Checkpoints.meta`).

  Raises:
    UserError: the config, or form, classes, numbers of images or, for a data set in memory, checksums differ.
  """
  if not (workdir / config_lib.FILE).exists():
    config_lib.check_same_run(meta['config'], config, workdir)
  if (form := meta.get('form', dataset.form)) != dataset.form:
    raise UserError(
      f'{config.data.source} is read as {_FORMS[dataset.form]} here, but {workdir} was trained on '
      f'{_FORMS[form]}: use the config.data.cache_mib of before, or a store of the same format'
    )
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
