"""Figure 4 (right) of the paper: nearest images by the activations of the last hidden layer.

Section 6.1 of the paper uses Euclidean distances between vectors of 4,096 numbers. It suggests an
autoencoder that compresses the vectors to short binary codes. This module has both.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

_CODES_BATCH = 256  # vectors in a training step of the codes
_CANDIDATES = 4  # times k: the candidates whose distances are computed again in float64


class Index:
  """Finds nearest vectors by brute force, with one pass over all vectors per call.

  Args:
    vectors: float32 `[N, D]`; they are not copied.
  """

  def __init__(self, vectors: np.ndarray):
    self.vectors = vectors
    self._squares = np.einsum('nd,nd->n', vectors, vectors)

  def nearest(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the `k` nearest vectors of each query, the nearest first.

    Args:
      queries: float32 `[Q, D]`.
      k: number of vectors; at most N are returned.

    Returns:
      Their indices, int `[Q, k]`, and Euclidean distances, float64 `[Q, k]`.
    """
    k = min(k, len(self.vectors))
    candidates = min(_CANDIDATES * k, len(self.vectors))
    scores = self._squares - 2 * (queries @ self.vectors.T)  # squared distances minus a constant
    indices = np.argpartition(scores, candidates - 1, axis=1)[:, :candidates]
    offsets = self.vectors[indices].astype(np.float64) - queries[:, None].astype(np.float64)
    distances = np.sqrt((offsets**2).sum(-1))
    order = np.argsort(distances, axis=1, kind='stable')[:, :k]
    return np.take_along_axis(indices, order, 1), np.take_along_axis(distances, order, 1)


def train_codes(vectors: np.ndarray, bits: int, *, steps: int = 500):
  """Trains an autoencoder with a nearly binary code, as section 6.1 of the paper suggests.

  The encoder and the decoder have one layer each. Noise before the sigmoid drives the `bits` units of
  the code to 0 and 1 (Hinton and Salakhutdinov, "Semantic hashing", 2009). The optimizer is Adam with
  a learning rate of 0.001.

  Args:
    vectors: training vectors, float32 `[N, D]`.
    bits: length of a code.
    steps: number of training steps.

  Returns:
    `encode(vectors [M, D]) -> bool [M, bits]`.
  """
  # The standard deviation of all numbers. `vectors.std()` would copy them.
  squares, mean = np.einsum('nd,nd->', vectors, vectors, dtype=float), vectors.mean(dtype=float)
  centre, spread = vectors.mean(0), float(np.sqrt(max(squares / vectors.size - mean**2, 0))) + 1e-6
  width = vectors.shape[1]
  first, second, key = jax.random.split(jax.random.key(0), 3)
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

  state, rng = optimizer.init(weights), np.random.default_rng(0)
  for i in range(steps):
    x = (vectors[rng.integers(0, len(vectors), _CODES_BATCH)] - centre) / spread
    weights, state = step(weights, state, x, jax.random.fold_in(key, i))
  kernel = np.asarray(weights['in']) / spread
  threshold = centre @ kernel - np.asarray(weights['threshold'])

  def encode(vectors: np.ndarray) -> np.ndarray:
    return vectors @ kernel > threshold

  return encode


class Codes:
  """Finds nearest binary codes by Hamming distance.

  Args:
    codes: bool `[N, bits]`; they are stored in bits / 8 bytes each.
  """

  def __init__(self, codes: np.ndarray):
    self._packed = np.packbits(codes, axis=1)

  def nearest(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the `k` nearest codes of each query, bool `[Q, bits]`.

    Returns:
      Their indices and the numbers of different bits, int `[Q, k]`, the nearest first.
    """
    packed = np.packbits(queries, axis=1)
    bits = np.stack([np.bitwise_count(self._packed ^ query).sum(1) for query in packed])
    indices = np.argsort(bits, axis=1, kind='stable')[:, :k]
    return indices, np.take_along_axis(bits, indices, 1)


def agreement(found: np.ndarray, true: np.ndarray) -> float:
  """Returns the share of the neighbours `true`, int `[Q, k]`, that is in `found`, int `[Q, m]`."""
  return float(np.mean([np.isin(t, f).mean() for t, f in zip(true, found, strict=True)]))
