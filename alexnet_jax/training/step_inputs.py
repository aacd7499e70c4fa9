"""The inputs of a training step that change with the schedule: learning rates and colour noise."""

from typing import Any, NamedTuple

import jax
import numpy as np

from alexnet_jax import steps
from alexnet_jax.distributed import sharding
from alexnet_jax.steps import optimizer, schedules
from alexnet_jax.training.run import Run


class Inputs(NamedTuple):
  """The inputs of one step.

  Attributes:
    rates: float32 scalars on the devices, a learning rate for each parameter.
    colour: float32 scalar on the devices, the strength of the colour noise.
    learning_rate: the rate of the weights before any factor of a single layer, for the log.
  """

  rates: dict[str, dict[str, jax.Array]]
  colour: jax.Array
  learning_rate: float


class StepInputs:
  """Computes the inputs of each step; copies them to the devices only when they change.

  They change a few times in a run, so a transfer for each step would be wasted time.
  """

  def __init__(self, run: Run):
    self._run = run
    self._params = steps.abstract_state(run.config, run.mesh).params
    self._on_host: tuple[Any, ...] | None = None
    self._on_devices: Any = None

  def at(self, step: int, schedule: schedules.ScheduleState) -> Inputs:
    """Returns the inputs of the step that follows `step` complete steps."""
    config, epoch = self._run.config, self._run.epoch(step)
    progress = step / self._run.total_steps
    factor = schedules.batch_factor(config, epoch)
    rates = schedules.rates(config.optim, step, epoch, progress, schedule)
    rate, bias_rate = (rate * factor for rate in rates)
    tree = optimizer.rate_tree(config.optim, self._params, rate, bias_rate, epoch)
    switched_off = config.augment.colour_until and epoch >= config.augment.colour_until
    inputs = tree, 0.0 if switched_off else config.augment.colour
    if inputs != self._on_host:
      self._on_host = inputs
      self._on_devices = sharding.replicate(self._run.mesh, jax.tree.map(np.float32, inputs))
    rates_on_devices, colour = self._on_devices
    return Inputs(rates_on_devices, colour, rate)
