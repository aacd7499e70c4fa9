"""The training step and the scores agree with formulas in NumPy. tests/distributed compares meshes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from step_helpers import BATCH, configure, inputs, visible_state

from alexnet_jax import models, steps
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.distributed import sharding
from alexnet_jax.errors import UserError
from alexnet_jax.steps import augment, layer_stats, rng
from alexnet_jax.training import nan_debug

PLAIN = {'augment__crop': 'centre', 'augment__flip': False, 'augment__colour': 0.0}


def arguments(config, mesh):
  """Returns a state with large weights, and the other arguments of a step with a rate of 0.01."""
  batch, statistics = inputs()
  state = visible_state(config, mesh)
  rates = jax.tree.map(lambda _: np.float32(0.01), state.params)
  rest = sharding.replicate(mesh, (rates, np.float32(0), statistics))
  return state, sharding.shard_batch(mesh, batch), *rest


@pytest.mark.parametrize(('smoothing', 'weighted', 'mixup'), [(0.0, False, 0.0), (0.2, True, 1.0)])
def test_loss_and_sums_of_a_step_agree_with_numpy(smoothing, weighted, mixup):
  """The loss is the mean cross-entropy over the rows whose mask is set. The sums are counts for the log."""
  choices = {
    'model__layers': ('conv1', 'conv3', 'fc6', 'fc8'),
    'train__label_smoothing': smoothing,
    'augment__mixup': mixup,
  }
  config = configure('paper+no_dropout+no_colour', (1, 1), **PLAIN, **choices)
  mesh = mesh_lib.make_mesh(config)
  state, batch, *rest = arguments(config, mesh)
  host, statistics = inputs()
  low = (config.data.canvas.size - config.model.input_size) // 2
  cut = slice(low, low + config.model.input_size)
  images = (host['image'] - statistics.mean_image)[:, cut, cut]
  rows, partners = np.arange(BATCH), np.arange(BATCH) ^ 1
  own = np.ones(BATCH, np.float32)
  if mixup:
    key = rng.seed_key(config.seed)
    own = np.asarray(augment.own_shares(jnp.asarray(host['mask']), rows, key, 0, config))
    shares = own[:, None, None, None]
    images = shares * images + (1 - shares) * images[partners]
  apply = jax.jit(functools.partial(models.create(config.model).apply, train=False))
  logits = np.asarray(apply({'params': state.params}, images), np.float64)
  # At test time, the recipe `paper` multiplies the outputs of fc6 and fc7 by 0.5 only if it has dropout.
  log_sums = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
  weights = np.ones(BATCH, np.float32)
  if weighted:
    weights = np.random.default_rng(1).uniform(0.5, 2, BATCH).astype(np.float32)
    batch |= sharding.shard_batch(mesh, {'weight': weights})

  def losses_of(rows):
    """The losses of all logits, with the labels and weights of some rows."""
    losses = log_sums - (1 - smoothing) * logits[np.arange(BATCH), host['label'][rows]]
    return (losses - smoothing * logits.mean(1)) * weights[rows]

  losses = own * losses_of(rows) + (1 - own) * losses_of(partners)
  state, loss = steps.make_train_step(config, mesh)(state, batch, *rest)
  assert float(loss) == pytest.approx(losses[host['mask']].mean(), rel=1e-4)
  correct = (logits.argmax(1) == host['label'])[host['mask']].sum()
  sums = {name: float(value) for name, value in state.sums.items()}
  assert sums == pytest.approx(
    {'loss': float(loss), 'steps': 1, 'correct': correct, 'examples': host['mask'].sum()}
  )
  assert int(state.step) == 1


@pytest.mark.parametrize(
  ('mesh', 'settings', 'parts'),
  [((2, 1), {'micro_batches': 3}, 6), ((2, 1), {'micro_batches': 4, 'augment__mixup': 0.2}, 16)],
)
def test_micro_batches_and_pairs_must_divide_the_batch(mesh, settings, parts):
  config = configure('paper', mesh, **settings)
  with pytest.raises(UserError, match=f'must be a multiple of {parts}'):
    steps.make_train_step(config, mesh_lib.make_mesh(config))


@pytest.mark.long
@pytest.mark.parametrize('variant', ['paper', 'caffe', 'owt', 'torchvision', 'paper+batch_norm'])
def test_no_function_needs_implicit_dtype_promotion(variant):
  """All compiled functions are traced under JAX's strict rules; nothing is compiled."""
  settings = {'optim__ema': 0.9, 'optim__layer_decay': (('fc8', 1.0),), 'augment__mixup': 0.2}
  config = configure(variant, (1, 1), **settings)
  mesh = mesh_lib.make_mesh(config)
  state = steps.abstract_state(config, mesh)
  batch, statistics = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), inputs())
  scalar = jax.ShapeDtypeStruct((), np.float32)
  rates = jax.tree.map(lambda _: scalar, state.params)
  probabilities = jax.ShapeDtypeStruct((BATCH, 10), np.float32)
  with jax.numpy_dtype_promotion('strict'):
    steps.make_train_step(config, mesh).lower(state, batch, rates, scalar, statistics)
    layer_stats.make_diagnostics_step(config, mesh).lower(state, batch, scalar, statistics)
    nan_debug.make_watch_step(config, mesh).lower(state, batch, scalar, statistics)
    predict = steps.make_predict_step(config, mesh, 10)
    predict.lower(state.params, state.batch_stats, batch['image'], statistics.mean_image)
    steps.score.lower(probabilities, batch['label'], batch['mask'])
