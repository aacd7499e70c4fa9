"""Figure 4, right: images that the network finds alike, by the vector of its last hidden layer.

Section 6.1 of the paper measures Euclidean distances of 4096 numbers, and adds that it would be better to
train an autoencoder that compresses them to short binary codes: both are here.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

_CHECKED = 4  # times as many candidates as asked for are measured again, in double precision


class Index:
  """Vectors to look up neighbours in, by brute force: one pass over them a call.

  Args:
    vectors: float32 `[N, D]`, kept as they are.
  """

  def __init__(self, vectors: np.ndarray):
    self.vectors = vectors
    self._squares = np.einsum('nd,nd->n', vectors, vectors)

  def nearest(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` nearest vectors of each query `[Q, D]`, the nearest first.

    Returns:
      Their places, int `[Q, k]`, and Euclidean distances, float64 `[Q, k]`.
    """
    k = min(k, len(self.vectors))
    some = min(_CHECKED * k, len(self.vectors))
    scores = self._squares - 2 * (queries @ self.vectors.T)  # squared distances, less a constant
    places = np.argpartition(scores, some - 1, axis=1)[:, :some]
    offsets = self.vectors[places].astype(np.float64) - queries[:, None].astype(np.float64)
    distances = np.sqrt((offsets**2).sum(-1))
    order = np.argsort(distances, axis=1, kind='stable')[:, :k]
    return np.take_along_axis(places, order, 1), np.take_along_axis(distances, order, 1)


def train_codes(
  vectors: np.ndarray, bits: int, *, steps: int = 500, batch_size: int = 256, seed: int = 0
):
  """Trains an autoencoder whose middle layer is nearly binary, as section 6.1 suggests.

  One sigmoid layer of `bits` units each way; noise before the sigmoid drives its units to 0 and 1
  (Hinton and Salakhutdinov, "Semantic hashing", 2009).

  Args:
    vectors: float32 `[N, D]`, to train on.
    bits: length of a code.
    steps, batch_size: of Adam at 0.001.
    seed: draws weights, batches and noise.

  Returns:
    `encode(vectors [M, D]) -> bool [M, bits]`.
  """
  centre, spread = vectors.mean(0), vectors.std() + 1e-6
  width = vectors.shape[1]
  first, second, key = jax.random.split(jax.random.key(seed), 3)
  weights = {
    'in': jax.random.normal(first, (width, bits)) / np.sqrt(width),
    'threshold': jnp.zeros(bits),
    'out': jax.random.normal(second, (bits, width)) / np.sqrt(bits),
    'bias': jnp.zeros(width),
  }
  optimizer = optax.adam(1e-3)

  def loss(weights, x, key):
    noise = jax.random.normal(key, (len(x), bits))
    code = jax.nn.sigmoid(4 * (x @ weights['in'] + weights['threshold'] + noise))
    return jnp.mean((code @ weights['out'] + weights['bias'] - x) ** 2)

  @jax.jit
  def step(weights, state, x, key):
    updates, state = optimizer.update(jax.grad(loss)(weights, x, key), state)
    return optax.apply_updates(weights, updates), state

  state, rng = optimizer.init(weights), np.random.default_rng(seed)
  for i in range(steps):
    x = (vectors[rng.integers(0, len(vectors), batch_size)] - centre) / spread
    weights, state = step(weights, state, x, jax.random.fold_in(key, i))
  inward, threshold = np.asarray(weights['in']), np.asarray(weights['threshold'])
  return lambda vectors: (vectors - centre) / spread @ inward + threshold > 0


class Codes:
  """Binary codes to look up neighbours in: bool `[N, bits]`, kept as bytes, bits / 8 a vector."""

  def __init__(self, codes: np.ndarray):
    self._packed = np.packbits(codes, axis=1)

  def nearest(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` codes that differ from each query `[Q, bits]` in the fewest bits: places and bits, `[Q, k]`."""
    packed = np.packbits(queries, axis=1)
    bits = np.stack([np.bitwise_count(self._packed ^ query).sum(1) for query in packed])
    places = np.argsort(bits, axis=1, kind='stable')[:, :k]
    return places, np.take_along_axis(bits, places, 1)


def agreement(found: np.ndarray, true: np.ndarray) -> float:
  """Which share of the neighbours `true` `[Q, k]` is among `found` `[Q, m]`."""
  return float(np.mean([np.isin(t, f).mean() for t, f in zip(true, found, strict=True)]))
