"""Searches for the weights of an ensemble, as the authors' `avg-valid.py` does (docs/FACTS.md, section 4)."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import steps

STEPS = 20  # weights are multiples of 1/20, from 0 to 1


def search(probabilities: np.ndarray, labels: np.ndarray, score: str = 'top5') -> list[float]:
  """Searches for weights with which the average of several networks makes few errors.

  It starts from equal weights and sets the weight of each network in turn to the multiple of 0.05 that
  makes the fewest errors, until a pass over all networks brings no gain. Then no change of a single
  weight would help.

  Args:
    probabilities: float32 `[networks, N, classes]`.
    labels: int32 `[N]`.
    score: which errors are counted, `top5` or `top1` of `steps.score`.

  Returns:
    One weight for each network, from 0 to 1. They need not add up to 1.
  """
  mask, on_device = np.ones(len(labels), bool), jnp.asarray(probabilities)

  @jax.jit
  def errors(weights, probabilities):
    mixed = (weights[:, None, None] * probabilities).sum(0)
    return steps.score(mixed, labels, mask)[score]

  weights = [1.0] * len(probabilities)
  fewest, improved = float(errors(jnp.asarray(weights), on_device)), True
  while improved:
    improved = False
    for network, step in itertools.product(range(len(weights)), range(STEPS + 1)):
      candidate = [*weights[:network], step / STEPS, *weights[network + 1 :]]
      found = float(errors(jnp.asarray(candidate), on_device))
      if found < fewest:
        weights, fewest, improved = candidate, found, True
  return weights
