"""The compiled steps: train state, training step, prediction step and their parts."""

from alexnet_jax.steps.state import (
  TrainState,
  abstract_state,
  all_finite,
  init_state,
  state_specs_of,
  zero_sums,
)
from alexnet_jax.steps.step import (
  in_micro_batches,
  loss_and_gradients,
  make_predict_step,
  make_train_step,
  score,
)

__all__ = [
  'TrainState',
  'abstract_state',
  'all_finite',
  'in_micro_batches',
  'init_state',
  'loss_and_gradients',
  'make_predict_step',
  'make_train_step',
  'score',
  'state_specs_of',
  'zero_sums',
]
