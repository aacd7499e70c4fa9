"""The search for ensemble weights, with random probabilities instead of networks."""

import numpy as np

from alexnet_jax.evaluation import ensemble


def count_errors(weights, probabilities, labels, k):
  """Counts the labels that are not among the `k` most probable classes. A tie counts as an error."""
  mixed = np.tensordot(np.float32(weights), probabilities, 1)
  own = mixed[np.arange(len(labels)), labels][:, None]
  return int(((mixed >= own).sum(1) > k).sum())


def test_no_single_weight_can_be_improved():
  """The weights have fewer errors than equal weights, and changing a single weight does not help."""
  draw = np.random.default_rng(0)
  labels = draw.integers(0, 12, 200)
  scores = draw.normal(size=(3, 200, 12)) * np.array([1.0, 2.0, 4.0])[:, None, None]
  scores[:, np.arange(200), labels] += 1.5
  probabilities = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
  probabilities = probabilities.astype(np.float32)
  for score, k in (('top5', 5), ('top1', 1)):
    found = ensemble.search(probabilities, labels, score)
    fewest = count_errors(found, probabilities, labels, k)
    assert fewest < count_errors([1, 1, 1], probabilities, labels, k)
    for network in range(3):
      for value in np.arange(21) / 20:
        tried = [*found[:network], value, *found[network + 1 :]]
        assert count_errors(tried, probabilities, labels, k) >= fewest, tried


def test_a_perfect_network_is_enough():
  labels = np.array([0, 1, 2, 1])
  guessing = np.random.default_rng(1).dirichlet(np.ones(3), 4)
  perfect = np.eye(3)[labels] * 0.6 + 0.1
  both = np.stack([guessing, perfect]).astype(np.float32)
  assert count_errors(ensemble.search(both, labels, 'top1'), both, labels, 1) == 0
