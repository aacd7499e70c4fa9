"""The weights of an ensemble, searched for as the original's `avg-valid.py` does (FACTS section 4)."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import steps

STEPS = 20  # a weight is one of 0, 0.05, ... 1


def search(probabilities: np.ndarray, labels: np.ndarray, score: str = 'top5') -> list[float]:
  """Weights under which the average of several networks makes few errors, by coordinate search.

  From equal weights on, each network's in turn becomes the one of 0, 0.05 ... 1 that makes the fewest errors,
  until a round over all of them gains nothing: no better can be had by changing one weight.

  Args:
    probabilities: float32 `[networks, N, classes]`.
    labels: int32 `[N]`.
    score: whose errors are counted, `top5` or `top1` of `steps.score`.

  Returns:
    A weight a network, 0 ... 1; they need not add up to 1.
  """
  everyone, on_device = np.ones(len(labels), bool), jnp.asarray(probabilities)

  @jax.jit
  def errors(weights, probabilities):
    mixed = (weights[:, None, None] * probabilities).sum(0)
    return steps.score(mixed, labels, everyone)[score]

  weights = [1.0] * len(probabilities)
  fewest, gained = float(errors(jnp.asarray(weights), on_device)), True
  while gained:
    gained = False
    for network, step in itertools.product(range(len(weights)), range(STEPS + 1)):
      tried = [*weights[:network], step / STEPS, *weights[network + 1 :]]
      found = float(errors(jnp.asarray(tried), on_device))
      if found < fewest:
        weights, fewest, gained = tried, found, True
  return weights
