"""The search for the weights of an ensemble, with random probabilities in place of networks."""

import numpy as np

from alexnet_jax.evaluation import ensemble


def wrong(weights, probabilities, labels, places):
  """Counts the labels that are not among the `places` most probable classes; a tie counts as an error."""
  mixed = np.tensordot(np.float32(weights), probabilities, 1)
  own = mixed[np.arange(len(labels)), labels][:, None]
  return int(((mixed >= own).sum(1) > places).sum())


def test_no_single_weight_can_be_improved():
  """The weights found beat equal weights, and no change of a single weight makes fewer errors."""
  draw = np.random.default_rng(0)
  labels = draw.integers(0, 12, 200)
  scores = draw.normal(size=(3, 200, 12)) * np.array([1.0, 2.0, 4.0])[:, None, None]
  scores[:, np.arange(200), labels] += 1.5
  probabilities = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
  probabilities = probabilities.astype(np.float32)
  for score, places in (('top5', 5), ('top1', 1)):
    found = ensemble.search(probabilities, labels, score)
    fewest = wrong(found, probabilities, labels, places)
    assert fewest < wrong([1, 1, 1], probabilities, labels, places)
    for network in range(3):
      for value in np.arange(21) / 20:
        tried = [*found[:network], value, *found[network + 1 :]]
        assert wrong(tried, probabilities, labels, places) >= fewest, tried


def test_a_perfect_network_is_enough():
  labels = np.array([0, 1, 2, 1])
  guessing = np.random.default_rng(1).dirichlet(np.ones(3), 4)
  perfect = np.eye(3)[labels] * 0.6 + 0.1
  both = np.stack([guessing, perfect]).astype(np.float32)
  assert wrong(ensemble.search(both, labels, 'top1'), both, labels, 1) == 0
