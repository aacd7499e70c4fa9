"""The paper's update rule by hand, and the schedules at and around their boundaries."""

import chex
from helpers import get
import jax
import numpy as np
import optax
import pytest

from alexnet_jax.errors import UserError
from alexnet_jax.steps import optimizer, schedules

STEPS, DROP = 30, 12
START = schedules.ScheduleState()


def problem(seed=0):
  """Parameters of three layers in the shapes of the towers, and a gradient a step."""
  rng = np.random.default_rng(seed)
  shapes = {
    'conv1': {'kernel': (2, 3, 3, 3, 4), 'bias': (2, 4)},  # biases are two-dimensional
    'fc8': {'kernel': (2, 5, 6), 'bias': (6,)},
    'batch_norm1': {'scale': (2, 4), 'bias': (2, 4)},
  }
  draw = lambda shape: rng.normal(size=shape).astype(np.float32)
  tree = lambda: jax.tree.map(draw, shapes, is_leaf=lambda x: isinstance(x, tuple))
  return tree(), [tree() for _ in range(STEPS)]


def run(config, params, gradients, rates_at):
  """Parameters and velocity after every step of `paper_sgd`."""
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
  """P section 5, one array at a time, in float64."""
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
  """0.1 for weights and twice that for biases, a tenth from step `DROP` on."""
  factor = 0.1 if step >= DROP else 1.0
  return 0.1 * factor, 0.2 * factor


@pytest.mark.parametrize(('decay', 'bias_decay'), [(0.05, 0.0), (0.02, 0.03), (0.0, 0.0)])
def test_paper_sgd_by_hand(decay, bias_decay):
  """Decay so large that its place in the formula shows."""
  config = get(optim__decay=decay, optim__bias_decay=bias_decay).optim
  params, gradients = problem()
  history = run(config, params, gradients, rates_with_drop)
  expected = paper_by_hand(params, gradients, rates_with_drop, decay, bias_decay)
  for (params, velocity), (w, v) in zip(history, expected, strict=True):
    chex.assert_trees_all_close(params, jax.tree.map(np.float32, w), rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(velocity, jax.tree.map(np.float32, v), rtol=1e-4, atol=1e-5)


def test_decay_is_chosen_by_name():
  """Without gradients only kernels move; scales and biases do not, whatever their dimensions."""
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


def test_a_layer_s_own_decay():
  """In place of the common one, for its weights alone (FACTS section 5: 3 on the last layer)."""
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


def test_rate_stands_inside_the_velocity():
  """Equal to optax.sgd while the rate is constant, not after it drops (FACTS section 2)."""
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
  # At the drop optax's step shrinks at once; ours still carries 0.9 of the last one.
  last_velocity = ours[DROP - 1][1]['conv1']['kernel']
  gap = ours[DROP][0]['conv1']['kernel'] - moved[DROP]['conv1']['kernel']
  np.testing.assert_allclose(gap, 0.9 * 0.9 * last_velocity, rtol=1e-3, atol=1e-4)


def test_rate_zero_freezes_everything():
  """Weights, their velocity and decay stand still while the other layers move on (O, weights.cu)."""
  config = get(optim__decay=0.1, optim__layer_rates=(('conv1', 5.0, 0.5), ('conv1', 10.0, 0.0)))
  params, gradients = problem()
  history = run(config.optim, params, gradients, lambda step: (0.1, 0.2))
  at_freeze, at_end = history[9], history[-1]
  assert np.abs(at_freeze[1]['conv1']['kernel']).min() > 0
  for before, after in zip(at_freeze, at_end, strict=True):  # parameters, velocity
    chex.assert_trees_all_equal(before['conv1'], after['conv1'])
    assert not np.allclose(before['fc8']['kernel'], after['fc8']['kernel'])
  # When the rate comes back, the velocity of before goes on.
  thawed = run(config.optim, params, gradients, lambda step: (0.1, 0.2) if step != 3 else (0, 0))
  chex.assert_trees_all_equal(thawed[2][1], thawed[3][1])
  assert not np.allclose(thawed[4][0]['fc8']['kernel'], thawed[3][0]['fc8']['kernel'])


def rates(config, step=0, epoch=0.0, progress=0.0, state=START):
  return schedules.rates(config, step, epoch, progress, state)


def test_steps_in_epochs():
  """The boundary itself has the new rate already."""
  config = get('paper').optim
  expected = {
    0: 1e-2,
    24.99: 1e-2,
    25: 1e-3,
    50.99: 1e-3,
    51: 1e-4,
    78.99: 1e-4,
    79: 1e-5,
    90: 1e-5,
  }
  for epoch, rate in expected.items():
    # Were epochs taken for steps, 10**6 steps would give the last rate at once.
    assert rates(config, step=10**6, epoch=epoch) == pytest.approx((rate, rate)), epoch


def test_steps_in_steps():
  config = get('caffe').optim
  for step, rate in {99_999: 1e-2, 100_000: 1e-3, 200_000: 1e-4, 449_999: 1e-6}.items():
    assert rates(config, step=step, epoch=1e9) == pytest.approx((rate, 2 * rate)), step


def test_constant():
  config = get('original', optim__schedule='constant').optim
  assert rates(config, 10**6, 80.0, 0.9) == (0.01, 0.02)


@pytest.mark.parametrize(
  ('progress', 'weight_rate', 'bias_rate'),
  [
    (0.0, 0.01, 0.02),
    (0.1, 0.01, 0.02),
    (0.25, 0.01, 0.02),  # at a boundary the old rate still holds (FACTS section 2)
    (0.2501, 0.0015874, 0.02),
    (0.5, 0.0015874, 0.02),
    (0.5001, 0.00025198, 0.002),
    (0.75, 0.00025198, 0.002),
    (0.7501, 0.00004, 0.002),
    (1.0, 0.00004, 0.002),
  ],
)
def test_dexp(progress, weight_rate, bias_rate):
  """Net 170's schedule: 250 in 4 levels for weights, 10 in 2 for biases."""
  found = rates(get('owt').optim, progress=progress)
  assert found == pytest.approx((weight_rate, bias_rate), rel=2e-5)


@pytest.mark.parametrize(
  ('epoch', 'conv1', 'others'),
  [
    (0, (0.01, 0.02), (0.01, 0.02)),
    (25, (1e-3, 0.02), (1e-3, 0.02)),  # net 145's biases kept their rate
    (51, (1e-4, 0.02), (1e-4, 0.02)),
    (66.9, (1e-4, 0.02), (1e-4, 0.02)),
    (67, (1e-5, 0.002), (1e-4, 0.02)),
    (72, (0, 0), (1e-4, 0.02)),
    (79, (0, 0), (1e-5, 0.02)),
  ],
)
def test_original_rates_by_layer(epoch, conv1, others):
  """The column of net 145 in FACTS section 2."""
  config = get('original').optim
  params = {layer: {'kernel': 0, 'bias': 0} for layer in ('conv1', 'conv2', 'fc8')}
  tree = optimizer.rate_tree(config, params, *rates(config, epoch=epoch), epoch)
  found = {layer: (leaves['kernel'], leaves['bias']) for layer, leaves in tree.items()}
  assert found['conv1'] == pytest.approx(conv1)
  assert found['conv2'] == found['fc8'] == pytest.approx(others)


def test_unknown_layer():
  config = get(optim__layer_rates=(('conv9', 1.0, 0.5),)).optim
  with pytest.raises(UserError, match=r'conv9.*conv1'):
    optimizer.rate_tree(config, {'conv1': {'kernel': 0}}, 0.01, 0.01, 0.0)


def after(errors, config):
  """The schedule state after evaluations with these errors, and how often it had dropped at each."""
  state, drops = START, []
  for error in errors:
    state = schedules.after_evaluation(config, state, error)
    drops.append(state.drops)
  return state, drops


def test_plateau():
  """Three evaluations in a row without a gain of more than 0.1 points divide the rate by ten."""
  config = get('paper+plateau').optim
  # 79.95 and 79.91 are no improvement on 80; after 79 the count starts anew.
  state, drops = after([80, 79.95, 79.91, 79, 79.5, 78.95, 78.92], config)
  assert drops == [0, 0, 0, 0, 0, 0, 1]
  assert state == schedules.ScheduleState(best_error=79, bad_epochs=0, drops=1)
  assert rates(config, epoch=80.0, state=state) == pytest.approx((1e-3, 1e-3))
  assert rates(config, epoch=80.0) == pytest.approx((1e-2, 1e-2))


def test_plateau_slow_gains_add_up():
  """The best error moves only by a real gain, so many small ones do count together."""
  config = get('paper+plateau').optim
  state, _ = after([50, 49.95, 49.89], config)
  assert state == schedules.ScheduleState(best_error=49.89, bad_epochs=0, drops=0)


@pytest.mark.parametrize(('patience', 'most'), [(3, 3), (1, 2)])
def test_plateau_patience_and_limit(patience, most):
  config = get('paper+plateau', optim__plateau__patience=patience, optim__plateau__drops=most).optim
  _, drops = after([50] * 20, config)
  expected = [min(most, n // patience) for n in range(20)]
  assert drops == expected


@pytest.mark.parametrize(
  ('variant', 'overrides', 'factor'),
  [
    ('paper', {'train__batch_size': 512}, 1.0),  # only parallelism owt scales by itself
    ('owt', {'train__batch_size': 512, 'parallelism': 'owt'}, 4.0),
    ('owt', {'train__batch_size': 128, 'parallelism': 'owt'}, 1.0),
    (
      'torchvision',
      {'train__batch_size': 1024, 'parallelism': 'owt'},
      4.0,
    ),  # its rates are for 256
    ('owt', {'train__batch_size': 512, 'optim__scaling__rule': 'sqrt'}, 2.0),
    ('owt', {'train__batch_size': 64, 'optim__scaling__rule': 'linear'}, 0.5),
    ('owt', {'parallelism': 'owt', 'train__batch_size': 512, 'optim__scaling__rule': 'none'}, 1.0),
  ],
)
def test_rates_grow_with_the_batch(variant, overrides, factor):
  assert schedules.batch_factor(get(variant, **overrides)) == pytest.approx(factor)


def test_warm_up():
  """From the rates for 128 images to those for 1024, in a straight line over five epochs."""
  config = get('paper+large_batch')
  factors = [schedules.batch_factor(config, epoch) for epoch in (0.0, 2.5, 5.0, 60.0)]
  assert factors == pytest.approx([1.0, 4.5, 8.0, 8.0])
  assert schedules.batch_factor(config) == 8.0
