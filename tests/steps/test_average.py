"""The exponential moving average (EMA) of the parameters: formula, meshes, resuming, and its use."""

import json

import chex
import jax
from ml_collections import FrozenConfigDict
import numpy as np
import pytest
from tiny import tiny_config

from alexnet_jax import config as config_lib
from alexnet_jax import steps
from alexnet_jax.cli import main as main_lib
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import loading
from alexnet_jax.training.loop import train
from alexnet_jax.workdir.checkpoint import Checkpoints

DECAY = 0.4


def averaging_config(**more):
  return tiny_config(
    optim__ema=DECAY, train__checkpoint_every=1, train__keep=10, train__log_every=1, **more
  )


def state_of(workdir, step):
  config = FrozenConfigDict(config_lib.load_workdir(workdir))
  with Checkpoints(workdir, read_only=True) as checkpoints:
    abstract = steps.abstract_state(config, mesh_lib.make_mesh(config))
    return jax.device_get(checkpoints.restore(step, abstract))


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
  folder = tmp_path_factory.mktemp('whole')
  train(averaging_config(train__steps=5, eval__weights='ema'), folder)
  return folder


@pytest.mark.long
def test_the_average_follows_its_formula(uninterrupted):
  for step in range(2, 6):
    before, after = state_of(uninterrupted, step - 1), state_of(uninterrupted, step)
    share = np.float32(1 - min(DECAY, step / (step + 9)))
    expected = jax.tree.map(lambda a, p, share=share: a + share * (p - a), before.ema, after.params)
    chex.assert_trees_all_close(after.ema, expected, rtol=1e-6, atol=1e-8)
    assert not np.array_equal(after.ema['conv1']['kernel'], after.params['conv1']['kernel'])


@pytest.mark.long
@pytest.mark.parametrize('mesh', [(1, 1), (2, 2)])
def test_a_resumed_run_continues_the_average(uninterrupted, tmp_path, mesh):
  train(averaging_config(train__steps=2), tmp_path)
  train(averaging_config(train__steps=5, mesh=mesh), tmp_path)
  found, expected = state_of(tmp_path, 5).ema, state_of(uninterrupted, 5).ema
  if mesh == (1, 1):
    chex.assert_trees_all_equal(found, expected)
  else:
    chex.assert_trees_all_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.long
def test_eval_weights_selects_the_average(uninterrupted, tmp_path, capsys):
  """`eval.weights` decides for evaluation during training, `--mode=eval` and exports."""
  rows = [json.loads(line) for line in (uninterrupted / 'metrics.jsonl').read_text().splitlines()]
  logged = [row['val/loss'] for row in rows if 'val/loss' in row][-1]
  losses = {}
  for weights in ('ema', 'last'):
    args = ['--mode=eval', f'--workdir={uninterrupted}', f'--config.eval.weights={weights}']
    assert main_lib.main([*args, '--checkpoint=latest']) == 0
    losses[weights] = json.loads(capsys.readouterr().out)['loss']
  assert losses['ema'] == pytest.approx(logged, rel=1e-5)
  assert losses['last'] != losses['ema']
  out = tmp_path / 'net.safetensors'
  args = [
    f'--workdir={uninterrupted}',
    '--checkpoint=latest',
    '--format=safetensors',
    f'--output={out}',
  ]
  assert main_lib.main(['--mode=export', *args]) == 0
  args = [f'--workdir={tmp_path / "run"}', '--format=safetensors', f'--weights={out}']
  assert main_lib.main(['--mode=import', *args]) == 0
  imported = loading.load(tmp_path / 'run', 'best', config_lib.load_workdir(tmp_path / 'run'))
  chex.assert_trees_all_equal(jax.device_get(imported.model.params), state_of(uninterrupted, 5).ema)


@pytest.mark.long
def test_the_average_of_a_run_without_one_is_refused(tmp_path):
  train(tiny_config(train__steps=1), tmp_path)
  assert not (tmp_path / 'checkpoints' / '1' / 'ema').exists()
  config = config_lib.load_workdir(tmp_path)
  config.eval.weights = 'ema'
  with pytest.raises(UserError, match=r'keeps no average: set .*or train with --config.optim.ema'):
    loading.load(tmp_path, 'best', config)
  with pytest.raises(UserError, match=r'config.optim.ema is 0: set'):
    train(tiny_config(eval__weights='ema'), tmp_path / 'other')
  with pytest.raises(UserError, match=r'config.optim.ema=1.0: must be'):
    train(tiny_config(optim__ema=1.0), tmp_path / 'other')
