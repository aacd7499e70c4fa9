"""Schedules: rates at and around their boundaries, the plateau rule, batch size and length of a run."""

from helpers import get
import pytest

from alexnet_jax.steps import schedules

START = schedules.ScheduleState()


def rates(config, step=0, epoch=0.0, progress=0.0, state=START):
  return schedules.rates(config, step, epoch, progress, state)


def test_steps_schedule_in_epochs():
  """The new rate already holds at the boundary itself."""
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
    # If the boundaries were steps, step 10**6 would have the last rate.
    assert rates(config, step=10**6, epoch=epoch) == pytest.approx((rate, rate)), epoch


def test_steps_schedule_in_steps():
  config = get('caffe').optim
  for step, rate in {99_999: 1e-2, 100_000: 1e-3, 200_000: 1e-4, 449_999: 1e-6}.items():
    assert rates(config, step=step, epoch=1e9) == pytest.approx((rate, 2 * rate)), step


def test_constant_schedule():
  config = get('original', optim__schedule='constant').optim
  assert rates(config, 10**6, 80.0, 0.9) == (0.01, 0.02)


@pytest.mark.parametrize('levels', [2, 4, 25, 49, 100, 1000])
def test_dexp_keeps_the_old_rate_at_every_boundary(levels):
  """0.28 * 25 is 7.000000000000001 in floating point; the boundary still belongs to the part before it."""
  config = get('owt', optim__dexp__levels=levels).optim
  total = 7 * levels
  for level in range(levels):
    expected = 0.01 * 250 ** (-level / (levels - 1))
    for step in (7 * level + 1, 7 * level + 7):
      assert rates(config, progress=step / total)[0] == pytest.approx(expected), (level, step)


@pytest.mark.parametrize(
  ('progress', 'weight_rate', 'bias_rate'),
  [
    (0.0, 0.01, 0.02),
    (0.1, 0.01, 0.02),
    (0.25, 0.01, 0.02),  # at a boundary the old rate still holds (docs/FACTS.md section 2)
    (0.2501, 0.0015874, 0.02),
    (0.5, 0.0015874, 0.02),
    (0.5001, 0.00025198, 0.002),
    (0.75, 0.00025198, 0.002),
    (0.7501, 0.00004, 0.002),
    (1.0, 0.00004, 0.002),
  ],
)
def test_dexp_schedule(progress, weight_rate, bias_rate):
  """The discrete exponential schedule of net 170, which the recipe `owt` follows.

  It divides the rate of weights by 250 in 4 levels, and that of biases by 10 in 2 levels.
  """
  found = rates(get('owt').optim, progress=progress)
  assert found == pytest.approx((weight_rate, bias_rate), rel=2e-5)


def after(errors, config):
  """Returns the schedule state after evaluations with these errors, and the number of drops after each."""
  state, drops = START, []
  for error in errors:
    state = schedules.after_evaluation(config, state, error)
    drops.append(state.drops)
  return state, drops


def test_plateau_schedule():
  """Three evaluations in a row without a gain of more than 0.1 points divide the rate by ten."""
  config = get('paper+plateau').optim
  # 79.95 and 79.91 do not improve on 80 by enough; 79 does, and resets the count.
  state, drops = after([80, 79.95, 79.91, 79, 79.5, 78.95, 78.92], config)
  assert drops == [0, 0, 0, 0, 0, 0, 1]
  assert state == schedules.ScheduleState(best_error=79, bad_epochs=0, drops=1)
  assert rates(config, epoch=80.0, state=state) == pytest.approx((1e-3, 1e-3))
  assert rates(config, epoch=80.0) == pytest.approx((1e-2, 1e-2))


def test_small_gains_add_up_in_the_plateau_rule():
  """The best error changes only with a sufficient gain, so several small gains count together."""
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
    # Only `parallelism=owt` scales the rates by default.
    ('paper', {'train__batch_size': 512}, 1.0),
    ('owt', {'train__batch_size': 512, 'parallelism': 'owt'}, 4.0),
    ('owt', {'train__batch_size': 128, 'parallelism': 'owt'}, 1.0),
    # The rates of this recipe are for a batch of 256.
    ('torchvision', {'train__batch_size': 1024, 'parallelism': 'owt'}, 4.0),
    ('owt', {'train__batch_size': 512, 'optim__scaling__rule': 'sqrt'}, 2.0),
    ('owt', {'train__batch_size': 64, 'optim__scaling__rule': 'linear'}, 0.5),
    ('owt', {'parallelism': 'owt', 'train__batch_size': 512, 'optim__scaling__rule': 'none'}, 1.0),
  ],
)
def test_rates_are_scaled_with_the_batch_size(variant, overrides, factor):
  assert schedules.batch_factor(get(variant, **overrides)) == pytest.approx(factor)


def test_warm_up_is_linear():
  """It leads from the rates for 128 images to those for 1024 images in five epochs."""
  config = get('paper+large_batch')
  factors = [schedules.batch_factor(config, epoch) for epoch in (0.0, 2.5, 5.0, 60.0)]
  assert factors == pytest.approx([1.0, 4.5, 8.0, 8.0])
  assert schedules.batch_factor(config) == 8.0


def test_total_steps_of_a_run():
  """`train.steps` has priority; otherwise the steps cover all epochs, and at least one step."""
  config = get(train__steps=7, train__epochs=90.0)
  assert schedules.total_steps(config, 1000) == 7
  config = get(train__steps=0, train__epochs=2.0, train__batch_size=128)
  assert schedules.total_steps(config, 1000) == 16  # 2000 / 128 = 15.6
  assert schedules.total_steps(config, 1) == 1
  config = get(train__steps=0, train__epochs=1.1, train__batch_size=10)
  assert schedules.total_steps(config, 100) == 11  # 1.1 * 100 is a little more than 110
