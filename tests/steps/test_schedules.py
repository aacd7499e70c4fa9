"""Schedules: rates at and around their boundaries, the plateau rule, batch size and length of a run."""

from helpers import get
import pytest

from alexnet_jax.steps import schedules

START = schedules.ScheduleState()


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


def test_total_steps():
  """`train.steps` has priority; otherwise the steps cover all epochs, and at least one step."""
  config = get(train__steps=7, train__epochs=90.0)
  assert schedules.total_steps(config, 1000) == 7
  config = get(train__steps=0, train__epochs=2.0, train__batch_size=128)
  assert schedules.total_steps(config, 1000) == 16  # 2000 / 128 = 15.6
  assert schedules.total_steps(config, 1) == 1
