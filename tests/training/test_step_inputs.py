"""The inputs of a step are rates by layer and colour noise, which are copied to devices if they change."""

import pytest
from tiny import tiny_config
from training_helpers import open_run

from alexnet_jax.steps import schedules
from alexnet_jax.training.step_inputs import StepInputs

START = schedules.ScheduleState()


def test_rates_and_colour_noise_follow_the_epoch(tmp_path):
  config = tiny_config(
    optim__boundaries=(1.0,),
    optim__bias_factor=1.0,
    augment__colour_until=2.0,
    optim__layer_rates=(('conv1', 2.0, 0.5),),
  )
  with open_run(config, tmp_path) as run:
    inputs = StepInputs(run)
    first, same, later = (inputs.at(step, START) for step in (0, 4, 10))
  assert first.learning_rate == 0.01
  assert float(first.rates['conv1']['kernel']) == pytest.approx(0.01)
  assert float(first.rates['conv1']['bias']) == pytest.approx(0.02)
  assert float(first.colour) == pytest.approx(0.1)
  assert same.rates['conv1']['kernel'] is first.rates['conv1']['kernel']  # not copied again
  assert later.learning_rate == pytest.approx(0.001)
  assert float(later.rates['conv1']['kernel']) == pytest.approx(0.0005)
  assert float(later.rates['fc8']['kernel']) == pytest.approx(0.001)
  assert float(later.colour) == 0
