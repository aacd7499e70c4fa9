"""Nearest vectors and codes agree with a full search."""

import tracemalloc

import numpy as np

from alexnet_jax.report import neighbours


def test_nearest_vectors_are_exact():
  """The result equals a full sort, also for vectors that are close together and far from zero."""
  rng = np.random.default_rng(2)
  vectors = (100 + rng.normal(size=(500, 64))).astype(np.float32)
  queries = (100 + rng.normal(size=(7, 64))).astype(np.float32)
  queries[0] = vectors[123]
  indices, distances = neighbours.Index(vectors).nearest(queries, 5)
  every = np.linalg.norm(queries[:, None].astype(float) - vectors.astype(float), axis=-1)
  np.testing.assert_array_equal(indices, np.argsort(every, axis=1)[:, :5])
  np.testing.assert_allclose(distances, np.sort(every, axis=1)[:, :5], rtol=1e-6)
  assert indices[0, 0] == 123 and distances[0, 0] == 0
  assert neighbours.Index(vectors[:3]).nearest(queries, 5)[0].shape == (7, 3)


def test_codes_keep_neighbours():
  """With 16 bits instead of 64 numbers, codes find most neighbours of clustered vectors."""
  rng = np.random.default_rng(3)
  centres = rng.normal(size=(40, 64))
  vectors = (np.repeat(centres, 25, 0) + 0.2 * rng.normal(size=(1000, 64))).astype(np.float32)
  encode = neighbours.train_codes(vectors, 16, steps=300)
  queries = (centres[:20] + 0.2 * rng.normal(size=(20, 64))).astype(np.float32)
  true, _ = neighbours.Index(vectors).nearest(queries, 5)
  found, bits = neighbours.Codes(encode(vectors)).nearest(encode(queries), 50)
  assert encode(vectors).shape == (1000, 16) and encode(vectors).dtype == bool
  assert (np.diff(bits, axis=1) >= 0).all()
  assert neighbours.agreement(found, true) > 0.5  # chance would give 0.05
  assert neighbours.agreement(true, true) == 1


def test_codes_are_made_without_a_copy_of_the_vectors():
  """The vectors of a report take up to 1.6 GB."""
  vectors = np.random.default_rng(0).normal(3, 1, (60_000, 64)).astype(np.float32)
  neighbours.train_codes(vectors[:500], 8, steps=1)  # what JAX keeps is not counted
  tracemalloc.start()
  encode = neighbours.train_codes(vectors, 8, steps=1)
  encode(vectors)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < vectors.nbytes / 2
