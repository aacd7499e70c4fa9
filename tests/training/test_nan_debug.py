"""The search for the origin of a non-finite loss: its step, its layer and its images."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from step_helpers import configure, inputs, visible_state
from tiny import tiny_config

from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.distributed import sharding
from alexnet_jax.errors import RunError
from alexnet_jax.training import nan_debug
from alexnet_jax.training.loop import train
from alexnet_jax.training.pending_losses import PendingLosses

FEW = {'model__layers': ('conv1', 'fc6', 'fc8'), 'train__steps': 8}


@pytest.mark.long
def test_a_too_high_rate_is_reported(tmp_path):
  with pytest.raises(
    RunError, match=r'the loss is not finite .*\): it began at step \d in the .*lower the rate'
  ):
    train(tiny_config(**FEW, optim__rate=2e9, optim__bias_rate=2e9), tmp_path)


@pytest.mark.long
def test_weights_that_overflow_in_an_evaluation_are_reported(tmp_path):
  """There is one step in an epoch, so that the evaluation is the first to use the new weights."""
  rates = {'optim__rate': 2e9, 'optim__bias_rate': 2e9, 'train__batch_size': 40}
  message = r'not finite at step (\d) .*: it began at step (\d) in the (.*); lower the rate'
  with pytest.raises(RunError, match=message) as raised:
    train(tiny_config(**FEW, **rates), tmp_path)
  step, began, where = re.search(message, str(raised.value)).groups()
  assert int(began) == int(step) + 1 and where.startswith(('activations', 'logits'))


@pytest.mark.long
def test_a_failure_that_does_not_repeat_is_attributed_to_the_hardware(tmp_path, monkeypatch):
  add = PendingLosses.add

  def flip(self, step, loss):
    add(self, step, jnp.float32(jnp.inf) if step == 4 else loss)

  monkeypatch.setattr(PendingLosses, 'add', flip)
  message = r'step 4 \(the checkpoint of step 3 .*suspect the hardware .*use another machine'
  with pytest.raises(RunError, match=message):
    train(tiny_config(**FEW), tmp_path)


def test_the_run_stops_within_two_steps_and_a_long_search_is_skipped(tmp_path, monkeypatch):
  """No log line, evaluation or checkpoint is due before the last step, because they wait for all losses."""
  monkeypatch.setattr(nan_debug, '_MAX_SECONDS', 0)
  add, losses = PendingLosses.add, {}

  def record(self, step, loss):
    losses[step] = loss
    add(self, step, loss)

  monkeypatch.setattr(PendingLosses, 'add', record)
  rare = {'train__log_every': 99, 'train__checkpoint_every': 99, 'train__evaluate': False}
  with pytest.raises(RunError, match='its origin was not searched for'):
    train(tiny_config(**FEW, **rare, optim__rate=2e9), tmp_path)
  first = min(step for step, loss in losses.items() if not np.isfinite(loss))
  assert max(losses) <= first + 1 < FEW['train__steps']


def test_a_search_that_runs_out_of_memory_reports_the_loss(tmp_path, monkeypatch):
  def fail(*_):
    raise RuntimeError('RESOURCE_EXHAUSTED: out of memory')

  monkeypatch.setattr(nan_debug, 'make_watch_step', fail)
  message = 'the loss is not finite at step .*: its origin was not found, .* ran out of memory'
  with pytest.raises(RunError, match=message):
    train(tiny_config(**FEW, optim__rate=2e9, optim__bias_rate=2e9), tmp_path)


@pytest.fixture(scope='module')
def watched():
  """A compiled step on four devices that watches all activations, a state, and the other arguments."""
  config = configure('original', (2, 2), model__layers=('conv1', 'conv3', 'fc7', 'fc8'))
  mesh = mesh_lib.make_mesh(config)
  batch, statistics = inputs()
  batch = sharding.shard_batch(mesh, batch)
  colour, statistics = sharding.replicate(mesh, (np.float32(0.1), statistics))
  watch = nan_debug.make_watch_step(config, mesh)
  return watch, visible_state(config, mesh), (batch, colour, statistics)


@pytest.mark.parametrize(
  'layer', ['conv1', *(pytest.param(x, marks=pytest.mark.long) for x in ('conv3', 'fc7', 'fc8'))]
)
def test_the_first_layer_is_named(watched, layer):
  """NaN in the weights of one layer makes all later layers NaN. The message names the first layer."""
  watch, state, rest = watched
  kernel = state.params[layer]['kernel']
  poisoned = state.params[layer] | {'kernel': kernel.at[0, ..., 0].set(jnp.nan)}
  found = jax.device_get(watch(state.replace(params=state.params | {layer: poisoned}), *rest))
  text = nan_debug.describe(1, found, str)
  expected = 'the logits' if layer == 'fc8' else f'the activations of {layer}'
  assert re.search(f'in {expected}( for [^;]*)?; lower the rate', text)


def test_non_finite_images_are_named(watched):
  watch, state, (batch, colour, statistics) = watched
  poisoned = statistics._replace(mean_image=statistics.mean_image.at[36, 36].set(jnp.inf))
  found = jax.device_get(watch(state, batch, colour, poisoned))
  assert not found['images'].all()
  text = nan_debug.describe(1, found, 'file{}.png'.format)
  numbers = found['index'][~found['images']]
  assert f'in the input, before the first layer, with file{numbers[0]}.png' in text


def test_a_healthy_step_has_finite_numbers_only(watched):
  watch, state, rest = watched
  found = jax.device_get(watch(state, *rest))
  assert all(np.all(part) for key in ('images', 'rows') for part in found[key])
  assert all(found['activations'].values()) and all(found['gradients'].values())
