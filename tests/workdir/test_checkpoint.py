"""Checkpoints are written during the next steps, verified when loaded, and kept if a newer one fails."""

import errno
import os
import shutil
import threading

import chex
import jax
import numpy as np
import pytest
from step_helpers import configure, inputs, visible_state
from tiny import tiny_config

from alexnet_jax import config as config_lib
from alexnet_jax import steps
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.distributed import sharding
from alexnet_jax.errors import RunError, UserError
from alexnet_jax.training.loop import train
from alexnet_jax.utils import atomic_io
from alexnet_jax.workdir.checkpoint import Checkpoints

FEW = {'model__layers': ('conv1', 'fc6', 'fc8')}


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A workdir with checkpoints of steps 3, 5 and 6."""
  workdir = tmp_path_factory.mktemp('trained')
  train(tiny_config(train__steps=6, train__keep=3, **FEW), workdir)
  return workdir


@pytest.fixture
def workdir(trained, tmp_path):
  """A copy of `trained`, which a test may change."""
  shutil.copytree(trained, tmp_path / 'run')
  return tmp_path / 'run'


def damage(workdir, step):
  path = next(p for p in sorted((workdir / 'checkpoints' / str(step)).rglob('*')) if p.is_file())
  path.write_bytes(path.read_bytes()[:-1])


def names(workdir):
  return sorted(path.name for path in (workdir / 'checkpoints').iterdir())


def test_a_damaged_checkpoint_is_renamed_and_the_previous_one_used(workdir, caplog):
  damage(workdir, 6)
  with Checkpoints(workdir) as checkpoints:
    assert checkpoints.latest() == 5
  assert names(workdir) == ['3', '5', '6.damaged']
  assert 'is damaged' in caplog.text and 'kept as 6.damaged' in caplog.text


def test_read_only_access_changes_nothing(workdir):
  damage(workdir, 6)
  before = names(workdir)
  with Checkpoints(workdir, read_only=True) as checkpoints:
    assert checkpoints.latest() == 5 and checkpoints.choose('latest') == 5
    assert checkpoints.choose('best') in (3, 5)
    with pytest.raises(RunError, match='step 6 is damaged: choose another'):
      checkpoints.choose('6')
  assert names(workdir) == before


def test_a_checkpoint_that_a_running_training_replaces_is_not_damaged(workdir):
  mesh = mesh_lib.make_mesh(tiny_config())
  with Checkpoints(workdir, read_only=True) as checkpoints:
    assert checkpoints.choose('6') == 6
    checkpoints.restore_statistics(6, mesh, 72)
    (workdir / 'checkpoints' / '6').rename(workdir / 'checkpoints' / 'partial-removed-6')
    for read in (
      checkpoints.meta,
      checkpoints.errors,
      lambda step: checkpoints.restore_statistics(step, mesh, 72),
    ):
      with pytest.raises(RunError, match='6 was replaced by the training that is running: run the'):
        read(6)
    damage(workdir, 5)
    shutil.rmtree(workdir / 'checkpoints' / '5' / 'statistics')
    with pytest.raises(UserError, match=r'5 is damaged .*: remove it'):
      checkpoints.restore_statistics(5, mesh, 72)


def test_a_run_with_only_damaged_checkpoints_does_not_start_again(workdir):
  for step in (3, 5, 6):
    damage(workdir, step)
  for _ in range(2):
    with pytest.raises(RunError, match=r'all checkpoints in .* are damaged'):
      train(tiny_config(train__steps=9, train__keep=3, **FEW), workdir)
  assert names(workdir) == ['3.damaged', '5.damaged', '6.damaged']
  (workdir / 'checkpoints' / '6.damaged').rename(workdir / 'checkpoints' / '6')
  with pytest.raises(RunError):  # its files are still damaged
    train(tiny_config(train__steps=9, train__keep=3, **FEW), workdir)
  assert '6.damaged' in names(workdir)


def test_partial_checkpoints_are_removed(workdir):
  (workdir / 'checkpoints' / 'partial-9').mkdir()
  (workdir / 'checkpoints' / 'partial-9' / 'x').write_text('')
  with Checkpoints(workdir) as checkpoints:
    assert checkpoints.latest() == 6
  assert names(workdir) == ['3', '5', '6']


@pytest.mark.long
def test_older_checkpoints_are_removed_after_the_newer_one_is_sealed(tmp_path, monkeypatch):
  seal, complete_at_seal = atomic_io.seal, []
  monkeypatch.setattr(
    atomic_io,
    'seal',
    lambda folder, facts: (complete_at_seal.append(names(tmp_path)), seal(folder, facts))[1],
  )
  train(tiny_config(train__steps=9, train__keep=1, train__evaluate=False), tmp_path)
  assert [sum(name.isdigit() for name in step) for step in complete_at_seal] == [0, 1, 1]
  assert names(tmp_path) == ['9']


@pytest.fixture(scope='module')
def begun():
  """A config, its mesh, a compiled step and its arguments."""
  config = configure('original', (1, 1))
  mesh = mesh_lib.make_mesh(config)
  batch, statistics = inputs()
  batch = sharding.shard_batch(mesh, batch)
  rates = jax.tree.map(lambda _: np.float32(0.01), visible_state(config, mesh).params)
  rates, colour, statistics = sharding.replicate(mesh, (rates, np.float32(0.1), statistics))
  return config, mesh, steps.make_train_step(config, mesh), (batch, rates, colour, statistics)


def meta_of(config):
  return {'config': config_lib.to_json(config)}


@pytest.mark.long
def test_training_continues_while_a_checkpoint_is_written(begun, tmp_path, monkeypatch):
  """The checkpoint has the state at the time of the call, although the next steps reuse its buffers."""
  config, mesh, step, arguments = begun
  seal, go = atomic_io.seal, threading.Event()
  monkeypatch.setattr(atomic_io, 'seal', lambda *args: (go.wait(60), seal(*args))[1])
  state = visible_state(config, mesh)
  before = jax.device_get(state)
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.save(state, arguments[-1], meta_of(config))
    for _ in range(3):
      state, loss = step(state, *arguments)
    assert np.isfinite(float(loss)) and names(tmp_path) == ['partial-0']
    go.set()
  assert names(tmp_path) == ['0']
  with Checkpoints(tmp_path, read_only=True) as checkpoints:
    found = checkpoints.restore(checkpoints.latest(), steps.abstract_state(config, mesh))
    assert checkpoints.meta(0)['config'] == config
  chex.assert_trees_all_equal(jax.device_get(found), before)
  assert int(state.step) == 3


def test_a_failed_save_is_reported_and_keeps_older_checkpoints(begun, tmp_path, monkeypatch):
  config, mesh, _, arguments = begun
  state = visible_state(config, mesh)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(state, arguments[-1], meta_of(config))

  def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  with (
    monkeypatch.context() as patch,
    pytest.raises(RunError, match=r'No space left.*same command'),
  ):
    patch.setattr(atomic_io, 'seal', full)
    with Checkpoints(tmp_path) as checkpoints:
      checkpoints.save(state.replace(step=state.step + 1), arguments[-1], meta_of(config))
  assert names(tmp_path) == ['0']
