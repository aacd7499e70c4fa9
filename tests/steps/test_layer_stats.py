"""Statistics of layers are correct, are equal on every mesh, and do not change the run."""

import functools
import re

from helpers import relative_error
import jax
import numpy as np
import pytest
from step_helpers import configure, inputs, visible_state
from tiny import read_metrics, tiny_config

from alexnet_jax import models, steps
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.distributed import sharding
from alexnet_jax.inference.classifier import layer_keys
from alexnet_jax.steps import rng
from alexnet_jax.steps.layer_stats import make_diagnostics_step
from alexnet_jax.training.loop import train

LAYERS = ('conv1', 'conv3', 'fc6', 'fc8')


@functools.cache
def diagnose(variant, mesh_shape, layers=LAYERS, **overrides):
  config = configure(variant, mesh_shape, model__layers=layers, **overrides)
  mesh = mesh_lib.make_mesh(config)
  state = visible_state(config, mesh)
  batch, statistics = inputs()
  batch = sharding.shard_batch(mesh, batch)
  colour, statistics = sharding.replicate(mesh, (np.float32(0.1), statistics))
  found = make_diagnostics_step(config, mesh)(state, batch, colour, statistics)
  return config, jax.device_get(state), jax.device_get(found)


def test_operations_of_the_last_layer_are_ignored():
  """The config of fc6 keeps the operations of a hidden layer, which the last layer does not apply."""
  config = configure('paper', (1, 1), model__layers=('conv1', 'fc6'))
  mesh = mesh_lib.make_mesh(config)
  batch, statistics = inputs()
  arguments = (steps.abstract_state(config, mesh), batch, np.float32(0.1), statistics)
  found = jax.eval_shape(make_diagnostics_step(config, mesh), *arguments)
  assert 'act' in config.model.fc6.then
  assert 'activation_mean' in found['conv1'] and 'activation_mean' not in found['fc6']
  assert layer_keys(config.model)['fc6'] == 'fc6'


@pytest.mark.long
def test_statistics_agree_with_numpy():
  """Without dropout and augmentation, the statistics equal those of the network at test time.

  The network has the layers conv6 and fc6, which have the same number.
  """
  layers = ('conv1', 'conv3', 'conv6', 'fc6', 'fc8')
  plain = {'augment__crop': 'centre', 'augment__flip': False, 'augment__colour': 0.0}
  config, state, found = diagnose('paper+no_dropout+no_colour', (1, 1), layers, **plain)
  batch, statistics = inputs()
  low = (config.data.canvas.size - config.model.input_size) // 2
  cut = slice(low, low + config.model.input_size)
  images = (batch['image'] - statistics.mean_image)[:, cut, cut]
  module = models.create(config.model)
  _, captured = module.apply(
    {'params': state.params},
    images,
    train=True,
    rngs={'dropout': rng.seed_key(0)},
    mutable=['intermediates'],
  )
  assert set(found) == set(config.model.layers)
  for layer in config.model.layers[:-1]:
    x = np.asarray(captured['intermediates'][f'{layer}/act'][0], np.float64)
    numbers = found[layer]
    assert numbers['activation_mean'] == pytest.approx(x.mean(), rel=1e-4)
    assert numbers['activation_std'] == pytest.approx(x.std(), rel=1e-4)
    silent = (x == 0).all(axis=tuple(range(1, x.ndim - 1)))
    assert numbers['dead_share'] == pytest.approx(silent.mean(), abs=1e-6)
    kernel = state.params[layer]['kernel'].astype(np.float64)
    assert numbers['weight_norm'] == pytest.approx(np.linalg.norm(kernel), rel=1e-5)
  assert 'activation_mean' not in found['fc8'] and found['fc8']['gradient_norm'] > 0
  assert max(numbers.get('dead_share', 0) for numbers in found.values()) > 0


@pytest.mark.long
@pytest.mark.parametrize(
  ('variant', 'mesh', 'parallelism'),
  [('paper', (4, 2), 'towers'), ('owt', (4, 1), 'owt')],
)
def test_statistics_do_not_depend_on_the_mesh(variant, mesh, parallelism):
  _, _, one = diagnose(variant, (1, 1))
  _, _, other = diagnose(variant, mesh, parallelism=parallelism)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=2e-5, atol=1e-6), one, other)


@pytest.mark.long
def test_micro_batches_change_nothing():
  few = ('conv1', 'fc6', 'fc8')
  _, _, whole = diagnose('paper', (1, 1), few)
  _, _, parts = diagnose('paper', (1, 1), few, micro_batches=4)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=2e-5, atol=1e-6), whole, parts)


@pytest.mark.parametrize('micro_batches', [1, 4])
def test_micro_batches_divide_the_activations(micro_batches):
  """So the diagnostics need no more memory than the training step, which computes the same parts."""
  layers = {'model__layers': ('conv1', 'fc8')}
  config = configure('paper', (1, 1), micro_batches=micro_batches, **layers)
  mesh = mesh_lib.make_mesh(config)
  batch, statistics = inputs()
  batch = {name: jax.ShapeDtypeStruct((52, *x.shape[1:]), x.dtype) for name, x in batch.items()}
  arguments = (steps.abstract_state(config, mesh), batch, np.float32(0.1), statistics)
  program = make_diagnostics_step(config, mesh).lower(*arguments).as_text()
  rows = {int(n) for n in re.findall(r'tensor<(\d+)x\d+x\d+x\d+xf32>', program)}
  assert 52 // micro_batches in rows and (52 in rows) == (micro_batches == 1)


@pytest.mark.long
def test_norms_of_gradient_and_update():
  """The update of the first step is the rate times the gradient."""
  config, state, before = diagnose('paper', (1, 1))
  mesh = mesh_lib.make_mesh(config)
  batch, statistics = inputs()
  rates = jax.tree.map(lambda _: np.float32(0.01), state.params)
  rates, colour, statistics = sharding.replicate(mesh, (rates, np.float32(0.1), statistics))
  batch = sharding.shard_batch(mesh, batch)
  step = steps.make_train_step(config, mesh)
  after, _ = step(visible_state(config, mesh), batch, rates, colour, statistics)
  found = make_diagnostics_step(config, mesh)(after, batch, colour, statistics)
  for layer, numbers in before.items():
    assert numbers['update_norm'] == 0 and numbers['gradient_norm'] > 0
    assert relative_error(found[layer]['update_norm'], 0.01 * numbers['gradient_norm']) < 1e-4


@pytest.mark.long
def test_statistics_do_not_change_the_run(tmp_path):
  few = {'model__layers': ('conv1', 'fc6', 'fc8'), 'train__steps': 4}
  train(tiny_config(**few), tmp_path / 'without')
  train(tiny_config(**few, train__diagnose_every=2), tmp_path / 'with')
  rows = read_metrics(tmp_path / 'with')
  about_layers = [row for row in rows if 'layers/conv1/weight_norm' in row]
  assert [row['step'] for row in about_layers] == [2, 4]
  assert all(np.isfinite(value) for row in about_layers for value in row.values())
  rest = [row for row in rows if row not in about_layers]
  assert rest == read_metrics(tmp_path / 'without')
