"""A loss that is not finite is traced to its step, its layer and its images."""

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
from alexnet_jax.training import loop as train_lib
from alexnet_jax.training import nan_debug
from alexnet_jax.training.loop import train

FEW = {'model__layers': ('conv1', 'fc6', 'fc8'), 'train__steps': 8}


def test_a_rate_that_is_too_high(tmp_path):
  with pytest.raises(
    RunError, match=r'no checkpoint yet\): it began at step \d in the .*lower the rate'
  ):
    train(tiny_config(**FEW, optim__rate=1e30, optim__bias_rate=1e30), tmp_path)


def test_what_does_not_come_back_was_the_machine_s(tmp_path, monkeypatch):
  settle = train_lib._Run.settle

  def flip(self, left):
    self.losses = type(self.losses)(
      (step, jnp.float32(jnp.inf) if step == 5 else loss) for step, loss in self.losses
    )
    settle(self, left)

  monkeypatch.setattr(train_lib._Run, 'settle', flip)
  with pytest.raises(
    RunError, match=r'the machine made this one .*another machine if it comes back'
  ):
    train(tiny_config(**FEW), tmp_path)


def test_no_search_that_would_take_long(tmp_path, monkeypatch):
  monkeypatch.setattr(train_lib, '_SEARCH', 0)
  with pytest.raises(RunError, match='where it began was not looked for'):
    train(tiny_config(**FEW, optim__rate=1e30), tmp_path)


@pytest.fixture(scope='module')
def watched():
  """A compiled watch step on four devices, a state, and what else it takes."""
  config = configure('original', (2, 2))
  mesh = mesh_lib.make_mesh(config)
  batch, statistics = inputs()
  batch = sharding.shard_batch(mesh, batch)
  colour, statistics = sharding.replicate(mesh, (np.float32(0.1), statistics))
  watch = nan_debug.make_watch_step(config, mesh)
  return watch, visible_state(config, mesh), (batch, colour, statistics)


@pytest.mark.parametrize('layer', ['conv1', 'conv3', 'fc7', 'fc8'])
def test_the_first_layer_is_named(watched, layer):
  """Weights of one layer are spoilt: all layers after it are NaN, and it is the first."""
  watch, state, rest = watched
  kernel = state.params[layer]['kernel']
  spoilt = state.params[layer] | {'kernel': kernel.at[0, ..., 0].set(jnp.nan)}
  found = jax.device_get(watch(state.replace(params=state.params | {layer: spoilt}), *rest))
  text = nan_debug._in_words(1, found, str)
  expected = 'the logits' if layer == 'fc8' else f'the activations of {layer}'
  assert re.search(f'in {expected}( for [^;]*)?; lower the rate', text)


def test_images_that_are_not_finite_are_named(watched):
  watch, state, (batch, colour, statistics) = watched
  spoilt = statistics._replace(mean_image=statistics.mean_image.at[36, 36].set(jnp.inf))
  found = jax.device_get(watch(state, batch, colour, spoilt))
  assert not found['images'].all()
  text = nan_debug._in_words(1, found, 'file{}.png'.format)
  numbers = found['index'][~found['images']]
  assert f'in the input, before the first layer, with file{numbers[0]}.png' in text


def test_finite_numbers_are_finite(watched):
  watch, state, rest = watched
  found = jax.device_get(watch(state, *rest))
  assert all(np.all(part) for key in ('images', 'rows') for part in found[key])
  assert all(found['activations'].values()) and all(found['gradients'].values())
