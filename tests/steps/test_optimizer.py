"""The optimizer: the update rule of the paper in NumPy, weight decay, frozen layers and rates by layer."""

import chex
from helpers import get
import jax
import numpy as np
import optax
import pytest

from alexnet_jax.steps import optimizer, schedules

STEPS, DROP = 30, 12


def problem(seed=0):
  """Returns parameters of three layers with a tower axis, and a gradient for each step."""
  rng = np.random.default_rng(seed)
  shapes = {
    'conv1': {'kernel': (2, 3, 3, 3, 4), 'bias': (2, 4)},  # biases are two-dimensional
    'fc8': {'kernel': (2, 5, 6), 'bias': (6,)},
    'batch_norm1': {'scale': (2, 4), 'bias': (2, 4)},
  }

  def draw(shape):
    return rng.normal(size=shape).astype(np.float32)

  def tree():
    return jax.tree.map(draw, shapes, is_leaf=lambda x: isinstance(x, tuple))

  return tree(), [tree() for _ in range(STEPS)]


def run(config, params, gradients, rates_at):
  """Returns parameters and velocity after every step of `paper_sgd`."""
  transform = optimizer.paper_sgd(config)
  state = transform.init(params)

  @jax.jit
  def update(gradient, state, params, rates):
    updates, state = transform.update(gradient, state, params, rates=rates)
    return optax.apply_updates(params, updates), state

  history = []
  for step, gradient in enumerate(gradients):
    rates = optimizer.rate_tree(config, params, *rates_at(step), epoch=float(step))
    params, state = update(gradient, state, params, jax.tree.map(np.float32, rates))
    history.append((params, state[-1].trace))
  return history


def paper_by_hand(params, gradients, rates_at, decay, bias_decay, momentum=0.9):
  """Computes the update of section 5 of the paper for one array at a time, in float64."""
  history = []
  w = jax.tree.map(np.float64, params)
  v = jax.tree.map(np.zeros_like, w)
  for step, gradient in enumerate(gradients):
    weight_rate, bias_rate = rates_at(step)
    for layer in w:
      for name in w[layer]:
        weight = name == 'kernel'
        rate, wd = (weight_rate, decay) if weight else (bias_rate, bias_decay)
        v[layer][name] = (
          momentum * v[layer][name] - wd * rate * w[layer][name] - rate * gradient[layer][name]
        )
        w[layer][name] = w[layer][name] + v[layer][name]
    history.append((jax.tree.map(np.copy, w), jax.tree.map(np.copy, v)))
  return history


def rates_with_drop(step):
  """Returns 0.1 for weights and 0.2 for biases, divided by ten from step `DROP` on."""
  factor = 0.1 if step >= DROP else 1.0
  return 0.1 * factor, 0.2 * factor


@pytest.mark.parametrize(('decay', 'bias_decay'), [(0.05, 0.0), (0.02, 0.03), (0.0, 0.0)])
def test_paper_sgd_agrees_with_numpy(decay, bias_decay):
  """The decay is so large that its position in the formula matters."""
  config = get(optim__decay=decay, optim__bias_decay=bias_decay).optim
  params, gradients = problem()
  history = run(config, params, gradients, rates_with_drop)
  expected = paper_by_hand(params, gradients, rates_with_drop, decay, bias_decay)
  for (params, velocity), (w, v) in zip(history, expected, strict=True):
    chex.assert_trees_all_close(params, jax.tree.map(np.float32, w), rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(velocity, jax.tree.map(np.float32, v), rtol=1e-4, atol=1e-5)


def test_only_kernels_decay():
  """Without gradients, kernels change; scales and biases do not, even if they have two dimensions."""
  config = get(optim__decay=0.5).optim
  params, gradients = problem()
  zeros = [jax.tree.map(np.zeros_like, gradient) for gradient in gradients[:2]]
  after, _ = run(config, params, zeros, lambda step: (0.1, 0.2))[-1]
  for layer, leaves in params.items():
    for name, before in leaves.items():
      if name == 'kernel':
        # v1 = -0.05 w, w1 = 0.95 w; v2 = -0.045 w - 0.05 * 0.95 w; w2 = w1 + v2
        np.testing.assert_allclose(after[layer][name], 0.8575 * before, rtol=1e-5)
      else:
        np.testing.assert_array_equal(after[layer][name], before)


def test_layer_decay_replaces_the_common_decay():
  """It applies to the weights of one layer, as the decay of 3 for the last layer in FACTS section 5."""
  config = get(optim__layer_decay=(('fc8', 3.0),), optim__decay=0.5).optim
  params = {
    layer: {'kernel': np.full((2, 2), 2.0), 'bias': np.full((2,), 2.0)} for layer in ('fc7', 'fc8')
  }
  transform = optimizer.paper_sgd(config)
  updates, _ = transform.update(
    jax.tree.map(np.zeros_like, params),
    transform.init(params),
    params,
    rates=jax.tree.map(lambda _: 0.1, params),
  )
  np.testing.assert_allclose(updates['fc7']['kernel'], -0.1 * 0.5 * 2.0, rtol=1e-6)
  np.testing.assert_allclose(updates['fc8']['kernel'], -0.1 * 3.0 * 2.0, rtol=1e-6)
  assert not np.any(updates['fc7']['bias']) and not np.any(updates['fc8']['bias'])


def test_the_velocity_contains_the_rate():
  """The update equals that of optax.sgd only while the rate is constant (FACTS section 2)."""
  config = get(optim__decay=0.0).optim
  params, gradients = problem()
  ours = run(config, params, gradients, lambda step: (rates_with_drop(step)[0],) * 2)
  theirs = params
  sgd = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1, momentum=0.9)
  state = sgd.init(theirs)
  update = jax.jit(sgd.update)
  moved = []
  for step, gradient in enumerate(gradients):
    state.hyperparams['learning_rate'] = np.float32(rates_with_drop(step)[0])
    updates, state = update(gradient, state)
    theirs = optax.apply_updates(theirs, updates)
    moved.append(theirs)
  for step in range(DROP):
    chex.assert_trees_all_close(ours[step][0], moved[step], rtol=1e-4, atol=1e-5)
  # When the rate drops, the step of optax shrinks at once. Ours still contains 0.9 of the previous step.
  last_velocity = ours[DROP - 1][1]['conv1']['kernel']
  gap = ours[DROP][0]['conv1']['kernel'] - moved[DROP]['conv1']['kernel']
  np.testing.assert_allclose(gap, 0.9 * 0.9 * last_velocity, rtol=1e-3, atol=1e-4)


def test_a_rate_of_zero_freezes_weights_and_velocity():
  """This is the behaviour of the original code (weights.cu)."""
  config = get(optim__decay=0.1, optim__layer_rates=(('conv1', 5.0, 0.5), ('conv1', 10.0, 0.0)))
  params, gradients = problem()
  history = run(config.optim, params, gradients, lambda step: (0.1, 0.2))
  at_freeze, at_end = history[9], history[-1]
  assert np.abs(at_freeze[1]['conv1']['kernel']).min() > 0
  for before, after in zip(at_freeze, at_end, strict=True):  # parameters, velocity
    chex.assert_trees_all_equal(before['conv1'], after['conv1'])
    assert not np.allclose(before['fc8']['kernel'], after['fc8']['kernel'])
  # When the rate is no longer zero, the old velocity continues.
  thawed = run(config.optim, params, gradients, lambda step: (0.1, 0.2) if step != 3 else (0, 0))
  chex.assert_trees_all_equal(thawed[2][1], thawed[3][1])
  assert not np.allclose(thawed[4][0]['fc8']['kernel'], thawed[3][0]['fc8']['kernel'])


@pytest.mark.parametrize(
  ('epoch', 'conv1', 'others'),
  [
    (0, (0.01, 0.02), (0.01, 0.02)),
    (25, (1e-3, 0.02), (1e-3, 0.02)),  # only the rate of weights drops
    (51, (1e-4, 0.02), (1e-4, 0.02)),
    (66.9, (1e-4, 0.02), (1e-4, 0.02)),
    (67, (1e-5, 0.002), (1e-4, 0.02)),
    (72, (0, 0), (1e-4, 0.02)),
    (79, (0, 0), (1e-5, 0.02)),
  ],
)
def test_rates_by_layer_of_the_recipe_original(epoch, conv1, others):
  """The rates are those of net 145, the network of the paper in the original code (FACTS section 2)."""
  config = get('original').optim
  params = {layer: {'kernel': 0, 'bias': 0} for layer in ('conv1', 'conv2', 'fc8')}
  tree = optimizer.rate_tree(
    config, params, *schedules.rates(config, 0, epoch, 0.0, schedules.ScheduleState()), epoch
  )
  found = {layer: (leaves['kernel'], leaves['bias']) for layer, leaves in tree.items()}
  assert found['conv1'] == pytest.approx(conv1)
  assert found['conv2'] == found['fc8'] == pytest.approx(others)


def test_the_order_of_layer_rates_does_not_matter():
  config = get(optim__layer_rates=(('conv1', 72.0, 0.0), ('conv1', 67.0, 0.1))).optim
  found = [
    optimizer.rate_tree(config, {'conv1': {'kernel': 0}}, 1.0, 1.0, epoch)['conv1']['kernel']
    for epoch in (66, 67, 80)
  ]
  assert found == [1.0, 0.1, 0.0]


def test_the_batch_normalisation_of_a_layer_has_its_rates():
  config = get(optim__layer_rates=(('conv2', 0.0, 0.0),)).optim
  params = {name: {'scale': 0} for name in ('batch_norm1', 'batch_norm2', 'conv2')}
  tree = optimizer.rate_tree(config, params, 1.0, 1.0, epoch=0.0)
  assert {name: rates['scale'] for name, rates in tree.items()} == {
    'batch_norm1': 1.0,
    'batch_norm2': 0.0,
    'conv2': 0.0,
  }
